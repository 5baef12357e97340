"""Runs the real gate component in a small pipeline through kfp.local: `gate_pipeline.py promote|hold MARKER`.

The measurements are made so that the gate must decide as asked; MARKER is written by the task behind `promote`.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from kfp import dsl, local

from components.evaluation.component import gate
from components.evaluation.config import EvaluationConfig
from components.evaluation.gate import HURDLES


@dsl.component(base_image="python", install_kfp_package=False)
def mark(path: str):
    """Leave a file behind."""
    from pathlib import Path

    Path(path).write_text("started")


@dsl.pipeline(name="gate")
def gated(section: str, evaluation: str, marker: str):
    """The gate and what stands behind it, wired as in the training pipeline."""
    measured = dsl.importer(artifact_uri=evaluation, artifact_class=dsl.Artifact, reimport=True)
    decision = gate(section=section, evaluation=measured.output)
    with dsl.If(decision.output == "promote", name="promote"):
        mark(path=marker)


def measurements(difference: float) -> dict:
    """What evaluation measures, with every difference to a baseline as given."""
    interval = {"value": difference, "low": difference - 0.01, "high": difference + 0.01}
    differences = {figure: dict.fromkeys(names, interval) for figure, names in HURDLES.items()}
    return {
        "candidate": "sft",
        "choice": "SFT is the candidate.",
        "num_windows": 400,
        "num_sessions": 40,
        "differences": differences | {"tiou50": {"constant": interval}},
        "figures": {figure: {"value": 0.8} for figure in (*HURDLES, "tiou50")},
        "baselines": {"constant": {"tiou50": {"value": 0.8 - difference}}},
        "champion": None,
    }


if __name__ == "__main__":
    wanted, marker = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PIXELIS_RUN_DIR"] = folder
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        os.environ["PIXELIS_MLFLOW_ARTIFACTS"] = f"file://{folder}/mlartifacts"
        artifact = Path(folder) / "evaluation"
        artifact.mkdir()
        (artifact / "measured.json").write_text(json.dumps(measurements(0.2 if wanted == "promote" else -0.2)))
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=f"{folder}/root")
        gated(section=EvaluationConfig().canonical(), evaluation=str(artifact), marker=marker)
