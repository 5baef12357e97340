"""KFP interface of `promotion`."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def promotion(
    section: str,
    clips: dsl.Input[dsl.Dataset],
    trajectories: dsl.Input[dsl.Dataset],
    recordings: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    sft: dsl.Input[dsl.Model],
    rft: dsl.Input[dsl.Model],
    encoder: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Put the promoted model together, register it and move the champion's alias.

    Args:
        section: The step's section as canonical JSON.
        clips: Clips; the canary clips travel with the model.
        trajectories: Questions about the canary clips.
        recordings: Recordings with their manifest.
        base: The policy's starting weights.
        sft: Adapter after supervised fine-tuning.
        rft: Adapter after reinforcement.
        encoder: Aligned encoders.
        evaluation: The evaluation with the gate's decision.
        model: Everything the service needs, in one folder.
        metrics: Figures of the step.
        page: Figures and model card.
        summary: The model card.
    """
    from functools import partial
    from pathlib import Path

    from components.promotion.config import PromotionConfig
    from components.promotion.promote import PromotionInputs, PromotionOutputs, promote
    from components.promotion.registry import register
    from components.shared.runtime.step import run_step

    inputs = {
        "clips": clips,
        "trajectories": trajectories,
        "recordings": recordings,
        "base": base,
        "sft": sft,
        "rft": rft,
        "encoder": encoder,
        "evaluation": evaluation,
    }
    run_step(
        "promotion",
        promote,
        (PromotionConfig, section),
        (PromotionInputs, inputs),
        (PromotionOutputs, {"model": model}),
        {"metrics": metrics, "page": page, "summary": summary},
        after=partial(register, Path(model.path), Path(evaluation.path)),
    )
