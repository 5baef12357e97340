"""The image files: what each must hold to, the bill of materials, the compose file. Building is not tested here."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FAMILIES = ("data", "train", "serve")


def lines(name: str) -> list[str]:
    """Instructions of a Dockerfile, continued lines joined."""
    text = (ROOT / "images" / name / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("family", FAMILIES)
def test_code_is_the_last_and_only_layer_of_a_family(family: str) -> None:
    instructions = [line.split()[0] for line in lines(family)]
    assert "RUN" not in instructions, "a layer that code changes would rebuild"
    assert instructions.index("COPY") > instructions.index("FROM")
    assert "ENTRYPOINT" not in instructions, "the deploying step could not run its own command"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_commit_is_named_after_the_code_is_copied(family: str) -> None:
    """Before it, every commit would copy the code again for nothing; without it nobody knows what runs."""
    found = lines(family)
    assert found.index("ARG GIT_SHA=unknown") > max(n for n, line in enumerate(found) if line.startswith("COPY"))
    label = next(line for line in found if line.startswith("LABEL"))
    for key in ("title", "description", "version", "revision", "source", "licenses"):
        assert f"org.opencontainers.image.{key}=" in label


def test_the_base_is_pinned_staged_and_runs_without_rights() -> None:
    found = lines("base")
    default = next(line for line in found if line.startswith("ARG BASE_IMAGE="))
    assert re.search(r":\d+\.\d+\.\d+-slim-", default)
    assert [line for line in found if line.startswith("FROM")] == ["FROM ${BASE_IMAGE} AS build", "FROM ${BASE_IMAGE}"]
    assert found[-1] == "USER 10001:10001"
    final = found[found.index("FROM ${BASE_IMAGE}") :]
    assert not any("apt-get" in line or line.startswith("RUN") for line in final), "nothing is built in the final stage"
    assert any("--require-hashes" in line for line in found)


def test_dropping_a_package_from_the_lock_leaves_the_others() -> None:
    """The expression in the Dockerfile, run on the real lock."""
    code = re.search(r'python3 -c "(import re, sys;.*?)" "\$drop"', (ROOT / "images/base/Dockerfile").read_text())
    assert code
    import subprocess
    import sys

    source = code.group(1).replace("\\\\\\\\", "\\\\")  # what the shell's double quotes make of it
    done = subprocess.run(
        [sys.executable, "-c", source, "bitsandbytes"], cwd=ROOT / "images", capture_output=True, text=True, check=True
    )
    before = re.findall(r"(?m)^([a-z0-9-]+)==", (ROOT / "images" / "requirements.lock").read_text())
    assert re.findall(r"(?m)^([a-z0-9-]+)==", done.stdout) == [name for name in before if name != "bitsandbytes"]
    assert "bitsandbytes" in before


def test_the_images_lock_agrees_with_the_projects_and_has_no_tools_of_developers() -> None:
    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", path.read_text()))

    ours, all_of_them = pins(ROOT / "images" / "requirements.lock"), pins(ROOT / "requirements.lock")
    assert {name: version for name, version in ours.items() if all_of_them.get(name) != version} == {}
    assert not {"pytest", "mypy", "ruff", "moto", "kubernetes-validate", "hypothesis"} & set(ours)
    assert {"kfp", "mlflow", "fastapi", "boto3", "kubernetes", "psycopg2-binary"} <= set(ours)


def test_the_bill_of_materials_names_what_is_installed() -> None:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "images" / "sbom.py")
    assert spec and spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bill = module.bill()
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    found = {item["name"].lower(): item for item in bill["components"]}
    assert found["kfp"]["purl"] == f"pkg:pypi/kfp@{found['kfp']['version']}"
    assert bill == module.bill()


def test_only_what_images_need_is_sent_to_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "runs", "tests", "docs", "benchmarks", ".venv"} <= set(ignored)
    assert "images" not in ignored


def test_the_compose_file_is_hardened_and_whole() -> None:
    compose = yaml.safe_load((ROOT / "images" / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert not service["image"].endswith(":latest")
        assert ":" in service["image"]
        assert "privileged" not in service
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would be open to the network"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if re.fullmatch(r"[a-z]+", source):
                assert source in compose["volumes"]
            if source.startswith("./"):
                assert (ROOT / "images" / source).exists()
        for secret in service.get("secrets", []):
            assert secret in compose["secrets"]
