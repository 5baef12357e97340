"""KFP interface of `sft`."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def sft(
    section: str,
    trajectories: dsl.Input[dsl.Dataset],
    clips: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    adapter: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Fine-tune the policy on trajectories, stage by stage.

    Args:
        section: The step's section as canonical JSON.
        trajectories: Trajectories and questions.
        clips: Clips as WebDataset shards.
        base: The policy's starting weights.
        adapter: LoRA adapter.
        metrics: Figures of the step.
        page: Figures, curves and pictures.
        summary: The step in a few lines.
    """
    from components.sft.config import SftConfig
    from components.sft.train import SftInputs, SftOutputs, fine_tune
    from components.shared.runtime.step import run_step

    run_step(
        "sft",
        fine_tune,
        (SftConfig, section),
        (SftInputs, {"trajectories": trajectories, "clips": clips, "base": base}),
        (SftOutputs, {"adapter": adapter}),
        {"metrics": metrics, "page": page, "summary": summary},
    )
