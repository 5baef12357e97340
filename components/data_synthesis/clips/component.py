"""KFP interface of `clips` (one group of recordings), with `clip_groups` before it and `clips_join` after."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def clip_groups(section: str, recordings: dsl.Input[dsl.Dataset]) -> list:
    """List the groups of recordings that are cut side by side.

    Args:
        section: The step's section as canonical JSON.
        recordings: Recordings with their manifest.
    """
    from pathlib import Path

    from components.data_synthesis.clips.groups import plan_groups

    return plan_groups(section, Path(recordings.path))


@dsl.component(base_image="python", install_kfp_package=False)
def clips(
    item: str,
    recordings: dsl.Input[dsl.Dataset],
    clips: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Cut one group of recordings into clips.

    Args:
        item: The group's number, how many groups there are, and the step's section, as JSON.
        recordings: Recordings with their manifest.
        clips: Clips as WebDataset shards.
        metrics: Figures of the step.
    """
    from components.data_synthesis.clips.config import ClipsConfig
    from components.data_synthesis.clips.cut import CutInputs, CutOutputs, cut_clips
    from components.data_synthesis.clips.groups import read_group
    from components.shared.runtime.step import run_step

    group, num_groups, section = read_group(item)
    run_step(
        f"clips.{group}",
        cut_clips,
        (ClipsConfig, section),
        (CutInputs, {"group": group, "num_groups": num_groups, "recordings": recordings}),
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
