"""KFP interface of `trajectories`."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def trajectories(
    section: str,
    clips: dsl.Input[dsl.Dataset],
    recordings: dsl.Input[dsl.Dataset],
    truth: dsl.Input[dsl.Dataset],
    trajectories: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Write trajectories (question, thoughts, executed operations, answer) and the questions of every split.

    Args:
        section: The step's section as canonical JSON.
        clips: Clips as WebDataset shards.
        recordings: Recordings with their manifest.
        truth: The twin's scene truth, empty for real data.
        trajectories: Trajectories and questions.
        metrics: Figures of the step.
        page: Figures, curves and pictures.
        summary: The step in a few lines.
    """
    from components.data_synthesis.trajectories.config import TrajectoriesConfig
    from components.data_synthesis.trajectories.synthesize import (
        TrajectoriesInputs,
        TrajectoriesOutputs,
        synthesize_trajectories,
    )
    from components.shared.runtime.step import run_step

    run_step(
        "trajectories",
        synthesize_trajectories,
        (TrajectoriesConfig, section),
        (TrajectoriesInputs, {"clips": clips, "recordings": recordings, "truth": truth}),
        (TrajectoriesOutputs, {"trajectories": trajectories}),
        {"metrics": metrics, "page": page, "summary": summary},
    )
