"""KFP interface of `alignment`."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def alignment(
    section: str,
    clips: dsl.Input[dsl.Dataset],
    recordings: dsl.Input[dsl.Dataset],
    encoder: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Train encoders of frames and text into one space, with Matryoshka widths.

    Args:
        section: The step's section as canonical JSON.
        clips: Clips as WebDataset shards.
        recordings: Recordings with their manifest.
        encoder: Aligned encoders.
        metrics: Figures of the step.
        page: Figures, curves and pictures.
        summary: The step in a few lines.
    """
    from components.alignment.config import AlignmentConfig
    from components.alignment.train import AlignmentInputs, AlignmentOutputs, align
    from components.shared.runtime.step import run_step

    run_step(
        "alignment",
        align,
        (AlignmentConfig, section),
        (AlignmentInputs, {"clips": clips, "recordings": recordings}),
        (AlignmentOutputs, {"encoder": encoder}),
        {"metrics": metrics, "page": page, "summary": summary},
    )
