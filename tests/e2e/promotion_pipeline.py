"""Promotion and deployment of a run's candidate in containers: `promotion_pipeline.py ROOT RUN EVALUATION PORT`.

EVALUATION is the run's, with the gate's decision overridden in a copy: at the smallest size the gate must hold. The two
steps, their images and the runner are those of `pixelis run --runner docker`.
"""

import json
import sys
from pathlib import Path

from kfp import dsl, local
from smallest import artifacts

from components.promotion.component import promotion
from components.ttrl.component import ttrl
from pipelines.config import compose, sections
from pipelines.containers import containers
from pipelines.local import Request, check_tracking, export_environment, new_run
from pipelines.placement import place


def main(root: Path, run: Path, evaluation: Path, port: int) -> None:
    """Run the two steps."""
    config = compose("twin", [f"ttrl.port={port}", "ttrl.rollouts=2"], {})
    found = artifacts(run) | {"evaluation": evaluation}
    classes = {"base": dsl.Model, "sft": dsl.Model, "rft": dsl.Model, "encoder": dsl.Model, "evaluation": dsl.Artifact}
    section = {name: json.dumps(value) for name, value in sections(config).items()}

    @dsl.pipeline(name="promoted")
    def promoted(unused: str = "") -> None:
        imported = {
            name: dsl.importer(artifact_uri=str(path), artifact_class=classes.get(name, dsl.Dataset)).output
            for name, path in found.items()
        }
        made = place(
            promotion(section=section["promotion"], **imported), "promotion", config.placement, retries=False
        ).outputs["model"]
        place(ttrl(section=section["ttrl"], model=made), "ttrl", config.placement, retries=False)

    directory = new_run(root, Request(runner="docker"))
    export_environment(directory, root, check_tracking(root), config)
    with containers(directory, root, config) as runner:
        local.init(runner, pipeline_root=str(directory / "artifacts"))
        promoted()
    print(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
