"""KFP interface of `clips` (one group of recordings) and `clips_join` (all groups)."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def clips(
    section: str,
    group: int,
    recordings: dsl.Input[dsl.Dataset],
    clips: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Cut one group of recordings into clips.

    Args:
        section: The step's section as canonical JSON.
        group: Number of the group.
        recordings: Recordings with their manifest.
        clips: Clips as WebDataset shards.
        metrics: Figures of the step.
    """
    from components.data_synthesis.clips.config import ClipsConfig
    from components.data_synthesis.clips.cut import CutInputs, CutOutputs, cut_clips
    from components.shared.runtime.step import run_step

    run_step(
        f"clips.{group}",
        cut_clips,
        (ClipsConfig, section),
        (CutInputs, {"group": group, "recordings": recordings}),
        (CutOutputs, {"clips": clips}),
        {"metrics": metrics},
    )


@dsl.component(base_image="python", install_kfp_package=False)
def clips_join(
    section: str,
    recordings: dsl.Input[dsl.Dataset],
    groups: dsl.Input[list[dsl.Dataset]],
    clips: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Join the groups into one data set and set the canary clips aside.

    Args:
        section: The step's section as canonical JSON.
        recordings: Recordings with their manifest.
        groups: The groups' clips.
        clips: Clips as WebDataset shards.
        metrics: Figures of the step.
        page: Figures, curves and pictures.
        summary: The step in a few lines.
    """
    from components.data_synthesis.clips.collect import CollectInputs, CollectOutputs, collect_clips
    from components.data_synthesis.clips.config import ClipsConfig
    from components.shared.runtime.step import run_step

    run_step(
        "clips",
        collect_clips,
        (ClipsConfig, section),
        (CollectInputs, {"recordings": recordings, "groups": groups}),
        (CollectOutputs, {"clips": clips}),
        {"metrics": metrics, "page": page, "summary": summary},
    )
