"""KFP interface of `ttrl`: deploys the service that answers and goes on learning."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def ttrl(
    section: str,
    model: dsl.Input[dsl.Model],
    service: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Start the service on the promoted model, wait until it answers, and record where it is.

    Args:
        section: The step's section as canonical JSON.
        model: The promoted model's folder.
        service: Where the service is (address, process, model digest).
        metrics: Figures of the step.
        page: The smoke test's answer.
        summary: Where the service is.
    """
    from components.shared.runtime.step import run_step
    from components.ttrl.config import TtrlConfig
    from components.ttrl.deploy import DeployInputs, DeployOutputs, deploy

    run_step(
        "ttrl",
        deploy,
        (TtrlConfig, section),
        (DeployInputs, {"model": model}),
        (DeployOutputs, {"service": service}),
        {"metrics": metrics, "page": page, "summary": summary},
    )
