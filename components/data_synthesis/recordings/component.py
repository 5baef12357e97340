"""KFP interface of `recordings`."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def recordings(
    section: str,
    recordings: dsl.Output[dsl.Dataset],
    truth: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Bring recordings to the door: digital twin, OpenPack tree or labelled videos.

    Args:
        section: The step's section as canonical JSON.
        recordings: Recordings with their manifest.
        truth: The twin's scene truth; only synthesis may read it.
        metrics: Figures of the step.
        page: Figures, curves and pictures.
        summary: The step in a few lines.
    """
    from components.data_synthesis.recordings.config import RecordingsConfig
    from components.data_synthesis.recordings.read import RecordingsInputs, RecordingsOutputs, read_recordings
    from components.shared.runtime.step import run_step

    run_step(
        "recordings",
        read_recordings,
        (RecordingsConfig, section),
        (RecordingsInputs, {}),
        (RecordingsOutputs, {"recordings": recordings, "truth": truth}),
        {"metrics": metrics, "page": page, "summary": summary},
    )
