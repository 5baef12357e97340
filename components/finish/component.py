"""KFP interface of `finish`, the exit step: runs on success and on failure."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def finish(steps: str, profile: str, status: dsl.PipelineTaskFinalStatus):
    """Write the run's summary and close its tracking run.

    Args:
        steps: Names of the run's steps in order, as JSON.
        profile: The profile the pipeline was compiled for.
        status: How the run ended, filled in by KFP.
    """
    import json

    from components.finish.summarize import finish_run

    finish_run(json.loads(steps), profile, state=status.state, error=status.error_message or "")
