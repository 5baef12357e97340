"""The images of this commit as they were built: what is in them, what is not, and that every step can start in them.

Needs a container engine that holds them: `make e2e-docker` builds them and runs this.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bill_of_materials import check_bill

from pipelines.config import compose
from pipelines.steps import STEPS

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
FAMILIES = sorted({step.image for step in STEPS})
CONFINED: dict[str, Any] = {
    "user": "4321:4321",
    "read_only": True,
    "tmpfs": {"/tmp": "mode=1777"},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "network_mode": "none",
    "remove": True,
}
"""A stranger's number, nothing to write on but /tmp, no rights, no network."""
MODULES = {
    "data": [
        "configure.resolve",
        "data_synthesis.recordings.read",
        "data_synthesis.clips.cut",
        "evaluation.gate",
        "promotion.promote",
        "finish.summarize",
    ],
    "train": [
        "data_synthesis.trajectories.synthesize",
        "base_model.prepare",
        "alignment.train",
        "sft.train",
        "rft.train",
        "evaluation.evaluate",
    ],
    "serve": ["ttrl.service", "ttrl.api", "ttrl.deploy"],
}


def image_of(family: str) -> str:
    placement = compose("twin", (), {}).placement
    return f"{placement.registry}/pixelis-{family}:{placement.tag}-{placement.variant}"


def said(engine: Any, family: str, *command: str, **options: Any) -> str:
    """What a command prints in a family's image."""
    return engine.containers.run(image_of(family), list(command), **CONFINED | options).decode()


def content(engine: Any, family: str, path: str) -> bytes:
    """A file of an image. Copied out: of a container's output that is long, engines hand out a part now and then."""
    container = engine.containers.create(image_of(family), "true")
    try:
        chunks, _ = container.get_archive(path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            [member] = archive.getmembers()
            file = archive.extractfile(member)
            assert file is not None
            return file.read()
    finally:
        container.remove()


def test_every_step_has_an_image_whose_imports_are_tried() -> None:
    assert set(MODULES) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_says_what_it_is_and_runs_without_rights(engine: Any, family: str) -> None:
    config = engine.images.get(image_of(family)).attrs["Config"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    assert config["Labels"]["org.opencontainers.image.revision"] == commit
    assert config["Labels"]["org.opencontainers.image.title"] == f"pixelis-{family}"
    assert config["User"] == "10001:10001"
    assert not config["Entrypoint"]
    assert bool(config.get("Healthcheck")) == (family == "serve")


@pytest.mark.parametrize("family", FAMILIES)
def test_there_is_no_compiler_and_no_program_that_gives_rights(engine: Any, family: str) -> None:
    names = "gcc g++ cc c++ clang tcc ld as make cmake rustc go"
    assert said(engine, family, "sh", "-c", f"for n in {names}; do command -v $n; done; true") == ""
    found = said(
        engine,
        family,
        "sh",
        "-c",
        "find /opt /app \\( -perm -4000 -o -perm -2000 -o -perm -0002 ! -type l \\)",
    )
    assert found == "", "set-id programs or files that everybody may write"


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_start_under_any_number_on_a_read_only_root_without_compiling_anything(engine: Any, family: str) -> None:
    script = f"""
import importlib, sys
for name in {MODULES[family]!r}:
    importlib.import_module("components." + name)
import importlib.util, kfp.dsl.executor_main, mlflow, os
without = []
for name, module in sorted(sys.modules.items()):
    path = getattr(module, "__file__", None) or ""
    if path.endswith(".py") and getattr(module, "__spec__", None) and module.__spec__.cached:
        if not os.path.exists(module.__spec__.cached):
            without.append(path)
print(os.getuid(), len(sys.modules) > 500, without)
try:
    open("/app/written", "w")
except OSError as error:
    print(error.strerror)
"""
    assert said(engine, family, "python3", "-c", script) == "4321 True []\nRead-only file system\n"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bills_of_materials_follow_their_format_and_name_what_is_there(engine: Any, family: str) -> None:
    where = ["/opt/pixelis"] + (["/opt/learning"] if family != "data" else [])
    bills = [json.loads(content(engine, family, f"{place}/sbom.cdx.json")) for place in where]
    for bill in bills:
        check_bill(bill)
    named = {item["purl"].partition("@")[0] for item in bills[-1]["components"]}
    assert "pkg:deb/debian/libc6" in named
    listing = "import importlib.metadata as m; print(*{d.metadata['Name'] for d in m.distributions()})"
    names = said(engine, family, "python3", "-c", listing).lower().replace("_", "-").split()
    installed = {f"pkg:pypi/{name}" for name in names}
    assert installed - named == set()
    assert ("pkg:pypi/torch" in named) == (family != "data")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_is_a_small_layer_of_its_own(engine: Any, family: str) -> None:
    layers = [layer for layer in engine.images.get(image_of(family)).history() if layer["Size"]]
    assert layers[0]["Size"] < 8e6, "what a commit pushes and pulls"
    assert layers[1]["Size"] > 3e8, "the layer below it is dependencies"
