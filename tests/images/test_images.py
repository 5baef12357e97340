"""The image files: what each must hold to, the bill of materials, the compose file. Building is not tested here."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from bill_of_materials import check_bill

from pipelines.steps import STEPS

ROOT = Path(__file__).parents[2]
FAMILIES = ("data", "train", "serve")


def lines(name: str) -> list[str]:
    """Instructions of a Dockerfile, continued lines joined."""
    text = (ROOT / "images" / name / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("family", FAMILIES)
def test_code_is_the_last_and_only_layer_of_a_family(family: str) -> None:
    base = "base" if family == "data" else "learning"
    found = lines(family)
    final = found[found.index(f"FROM pixelis-{base}:${{VARIANT}}") :]
    instructions = [line.split()[0] for line in final]
    assert not {"RUN", "ADD"} & set(instructions), "a layer that code changes would rebuild"
    assert [line for line in final if line.startswith("COPY")] == ["COPY --from=code /app /app"]
    assert "USER" not in instructions, "the base's user stays"
    assert "ENTRYPOINT" not in instructions, "the deploying step could not run its own command"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_commit_is_named_after_the_code_is_copied(family: str) -> None:
    """Before it, every commit would copy the code again for nothing; without it nobody knows what runs."""
    found = lines(family)
    assert found.index("ARG GIT_SHA=unknown") > max(n for n, line in enumerate(found) if line.startswith("COPY"))
    label = next(line for line in found if line.startswith("LABEL"))
    for key in ("title", "description", "version", "revision", "source", "licenses"):
        assert f"org.opencontainers.image.{key}=" in label


@pytest.mark.parametrize("family", ["train", "serve"])
def test_what_the_families_dockerfiles_repeat_is_equal(family: str) -> None:
    """images/README.md says why they repeat it."""

    def repeated(name: str) -> list[str]:
        found = lines(name)
        base = "base" if name == "data" else "learning"
        own = ("EXPOSE", "ENV PIXELIS_SERVICE_RECORD", "HEALTHCHECK", "CMD")
        kept = [line.replace(f"pixelis-{base}:", "BASE:") for line in found if not line.startswith(own)]
        kept = [re.sub(r'(description=)"[^"]*"', r"\1", line.replace(f"pixelis-{name}", "NAME")) for line in kept]
        assert sum("BASE:" in line for line in kept) == 2 and any("NAME" in line for line in kept)
        return kept

    assert repeated(family) == repeated("data")


def test_the_base_is_pinned_staged_and_runs_without_rights() -> None:
    found = lines("base")
    default = next(line for line in found if line.startswith("ARG BASE_IMAGE="))
    assert re.search(r":\d+\.\d+\.\d+-slim-", default)
    stages = [line.removeprefix("FROM ") for line in found if line.startswith("FROM")]
    of_base = ["build", "python", "folders"]
    ours = ["build AS build-learning", "python AS base", "base AS learning"]
    assert sorted(stages) == sorted([*(f"${{BASE_IMAGE}} AS {name}" for name in of_base), *ours])
    final = found[found.index("FROM python AS base") :]
    assert "USER 10001:10001" in final
    assert not any("apt-get" in line or line.startswith("RUN") for line in final), "nothing is built in a final stage"
    installs = [
        part for line in found for part in re.split("&&|;", line) if " install " in part and '"$TORCH"' not in part
    ]
    assert len(installs) == 3 and all("--require-hashes" in part and "--no-deps" in part for part in installs)


def load(name: str) -> Any:
    """A script of images/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "images" / f"{name}.py")
    assert spec and spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", text))


def test_every_package_of_the_lock_is_in_exactly_one_layer() -> None:
    layer, lock = load("layer"), (ROOT / "images" / "requirements.lock").read_text()
    base, learning = layer.select("base", lock), layer.select("learning-cpu", lock)
    names = [sorted(re.findall(r"(?m)^([a-z0-9-]+)==", text)) for text in (base, learning, lock)]
    assert sorted([*names[0], *names[1], "bitsandbytes"]) == names[2]
    assert set(names[2]) >= layer.LEARNING, "a name that the lock no longer has"
    assert base.count("--hash=") + learning.count("--hash=") < lock.count("--hash=")
    assert all(text.rstrip().splitlines()[-1].startswith("    --hash=") for text in (base, learning))


def test_the_gpu_variant_differs_in_torch_faiss_and_bitsandbytes_only() -> None:
    layer, lock = load("layer"), (ROOT / "images" / "requirements.lock").read_text()
    gpu = pins((ROOT / "images" / "gpu.lock").read_text())
    cpu = pins(layer.select("learning-cpu", lock))
    assert set(cpu) - set(pins(layer.select("learning-gpu", lock))) == {"faiss-cpu"}
    assert set(gpu) & set(pins(lock)) == {"bitsandbytes"}
    assert gpu["bitsandbytes"] == pins(lock)["bitsandbytes"]
    assert gpu["faiss-gpu"] == cpu["faiss-cpu"], "both variants read and write the same index files"
    assert f"ARG TORCH=torch=={gpu['torch']}" in lines("base")
    assert any(name.startswith("nvidia-cudnn") for name in gpu)


def test_data_steps_run_without_what_their_image_leaves_out() -> None:
    """Importing each step of the data image touches nothing of the learning layer."""
    families = {step.name: step.image for step in STEPS}
    verbs = {
        "configure": "configure.resolve",
        "recordings": "data_synthesis.recordings.read",
        "clips": "data_synthesis.clips.cut",
        "promotion": "promotion.promote",
        "finish": "finish.summarize",
    }
    assert {name for name, family in families.items() if family == "data"} == set(verbs)
    left_out = [name.replace("-", "_").removesuffix("_cpu") for name in (*sorted(load("layer").LEARNING), "torch")]
    block = f"import sys; sys.modules.update(dict.fromkeys({left_out!r}))"  # None there makes an import fail
    light = ("evaluation.gate", "data_synthesis.clips.groups")  # tasks of other steps that run in the data image
    for verb in (*verbs.values(), *light):
        done = subprocess.run(
            [sys.executable, "-c", f"{block}; import components.{verb}"], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr


def test_the_images_lock_agrees_with_the_projects_and_has_no_tools_of_developers() -> None:
    ours, all_of_them = (
        pins(path.read_text()) for path in (ROOT / "images/requirements.lock", ROOT / "requirements.lock")
    )
    assert {name: version for name, version in ours.items() if all_of_them.get(name) != version} == {}
    assert not {"pytest", "mypy", "ruff", "moto", "kubernetes-validate", "hypothesis"} & set(ours)
    assert {"kfp", "mlflow", "fastapi", "boto3", "kubernetes", "psycopg2-binary"} <= set(ours)


def test_the_bill_of_materials_names_what_is_installed_by_the_rules_of_its_format() -> None:
    bill = load("sbom").bill("pixelis-base", STATUS)
    check_bill(bill)
    assert bill["metadata"]["component"]["name"] == "pixelis-base"
    found = {item["name"].lower(): item for item in bill["components"]}
    assert found["kfp"]["purl"] == f"pkg:pypi/kfp@{found['kfp']['version']}"
    assert found["libc6"]["purl"] == "pkg:deb/debian/libc6@1%3A2.36-9?arch=amd64"
    assert "removed" not in found


def test_the_bills_rules_are_checked_for_real() -> None:
    """The test's own instrument: a licence, an identifier and a field that the format does not have."""
    good = load("sbom").bill("pixelis-base", STATUS)
    for wrong in ({"licenses": [{"expression": 1}]}, {"purl": "pypi/kfp"}, {"colour": "red"}):
        with pytest.raises(ValueError):
            check_bill(good | {"components": [good["components"][0] | wrong]})


STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 1:2.36-9
Description: C library
 Package: not a field

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


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


def test_prometheus_has_the_clusters_alerts() -> None:
    """images/alerts.yaml is the groups of the PrometheusRule; renew with PIXELIS_RENEW_GOLDEN=1."""
    rule = yaml.safe_load((ROOT / "manifests" / "monitoring" / "alerts.yaml").read_text())
    target = ROOT / "images" / "alerts.yaml"
    if os.environ.get("PIXELIS_RENEW_GOLDEN") == "1":
        target.write_text(NOTE + yaml.safe_dump({"groups": rule["spec"]["groups"]}, sort_keys=False, width=120))
    assert yaml.safe_load(target.read_text()) == {"groups": rule["spec"]["groups"]}
    compose = yaml.safe_load((ROOT / "images" / "compose.yaml").read_text())
    [mount] = [item for item in compose["services"]["prometheus"]["volumes"] if item.startswith("./alerts.yaml:")]
    config = yaml.safe_load((ROOT / "images" / "prometheus.yaml").read_text())
    assert mount.split(":")[1:] == [*config["rule_files"], "ro"]


NOTE = "# The groups of manifests/monitoring/alerts.yaml, for compose.yaml. tests/images keeps the two equal.\n"


def test_compose_accepts_the_compose_file(tmp_path: Path) -> None:
    """`docker compose config`, or its predecessor, which does not know the project's name yet."""
    environment = os.environ | {"TAG": "0-cpu", "MODEL": str(tmp_path), "POSTGRES_PASSWORD": "x"}
    path = ROOT / "images" / "compose.yaml"
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        command = ["docker", "compose", "-f", str(path), "config"]
    elif shutil.which("docker-compose"):
        text = re.sub(r"(?m)^name: .*\n", "", path.read_text())
        (tmp_path / "compose.yaml").write_text(text)
        command = ["docker-compose", "-f", str(tmp_path / "compose.yaml"), "config"]
    else:
        pytest.skip("neither docker compose nor docker-compose is installed")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rendered = yaml.safe_load(done.stdout)
    assert set(rendered["services"]) == {"postgres", "mlflow", "ttrl", "prometheus"}
    assert rendered["services"]["ttrl"]["image"] == "ghcr.io/pixelis/pixelis-serve:0-cpu"
    del environment["POSTGRES_PASSWORD"]
    assert subprocess.run(command, capture_output=True, env=environment).returncode != 0, "no default password"
