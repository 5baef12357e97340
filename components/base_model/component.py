"""KFP interface of `base_model`."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def base_model(
    section: str,
    clips: dsl.Input[dsl.Dataset],
    trajectories: dsl.Input[dsl.Dataset],
    recordings: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    encoder: dsl.Input[dsl.Model] = None,
):
    """Provide the policy's starting weights: from the hub, or a tiny model pretrained here.

    Args:
        section: The step's section as canonical JSON.
        clips: Clips as WebDataset shards.
        trajectories: Trajectories and questions.
        recordings: Recordings with their manifest.
        model: Model folder in hub layout.
        metrics: Figures of the step.
        page: Figures, curves and pictures.
        summary: The step in a few lines.
        encoder: Aligned encoder, handed over only where the policy stands on it.
    """
    from components.base_model.config import BaseModelConfig
    from components.base_model.prepare import BaseInputs, BaseOutputs, prepare_base
    from components.shared.runtime.step import run_step

    run_step(
        "base_model",
        prepare_base,
        (BaseModelConfig, section),
        (BaseInputs, {"clips": clips, "trajectories": trajectories, "recordings": recordings, "encoder": encoder}),
        (BaseOutputs, {"model": model}),
        {"metrics": metrics, "page": page, "summary": summary},
    )
