"""The script that makes the Secrets: every one that is named anywhere, with usable contents, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.ttrl.security import Gatekeeper
from pipelines.config import compose
from pipelines.kustomize import containers, pod_spec
from pipelines.placement import EXCHANGE_SECRET

SCRIPT = Path(__file__).parents[2] / "manifests" / "secrets.sh"
KUBECTL = """
import base64, json, os, sys
from pathlib import Path
root, words = Path(os.environ["FAKE_CLUSTER"]), sys.argv[1:]
namespace = words[words.index("-n") + 1] if "-n" in words else ""
rest = words[2:] if namespace else words
if rest[:2] in (["get", "namespace"], ["create", "namespace"]):
    sys.exit(0)
name = rest[rest.index("generic") + 1] if "generic" in rest else rest[2]
file = root / f"{namespace}.{name}.json"
if rest[0] == "get":
    if not file.is_file():
        sys.exit(1)
    if "-o" in rest:
        key = rest[-1].partition("{.data.")[2].rstrip("}")
        sys.stdout.write(base64.b64encode(json.loads(file.read_text())[key].encode()).decode())
elif rest[0] == "delete":
    file.unlink(missing_ok=True)
elif rest[0] == "create":
    if file.is_file():
        sys.exit("already exists")
    data = {}
    for word in rest[rest.index("generic") + 2 :]:
        kind, _, value = word.partition("=")
        if kind == "--from-literal":
            key, _, text = value.partition("=")
            data[key] = text
        elif kind == "--from-file":
            data[Path(value).name] = Path(value).read_text()
        else:
            sys.exit(f"unknown: {word}")
    file.write_text(json.dumps(data))
else:
    sys.exit(f"unknown: {rest}")
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder of Secrets with the one that Kubeflow Pipelines has, and a kubectl that keeps them."""
    tool = tmp_path / "bin" / "kubectl"
    tool.parent.mkdir()
    tool.write_text(f"#!{sys.executable}\n{KUBECTL}")
    tool.chmod(0o755)
    state = tmp_path / "state"
    state.mkdir()
    (state / "kubeflow.mlpipeline-minio-artifact.json").write_text('{"accesskey": "minio", "secretkey": "minio123"}')
    return state


def run(cluster: Path, **more: str) -> str:
    path = f"{cluster.parent / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "FAKE_CLUSTER": str(cluster), "PYTHON": sys.executable} | more
    done = subprocess.run(["sh", str(SCRIPT)], env=environment, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stderr
    return done.stdout


def secrets(cluster: Path) -> dict[str, dict[str, str]]:
    return {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in cluster.iterdir()}


def test_every_secret_that_is_named_is_made_with_its_keys(cluster: Path, everything: list[dict[str, Any]]) -> None:
    run(cluster, HF_TOKEN="hf")
    found = secrets(cluster)
    for item in everything:
        namespace, spec = item["metadata"].get("namespace"), pod_spec(item) or {}
        for volume in spec.get("volumes", []):
            if "secret" in volume:
                assert f"{namespace}.{volume['secret']['secretName']}" in found
        for container in containers(item):
            for source in container.get("envFrom", []):
                assert f"{namespace}.{source['secretRef']['name']}" in found
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    reference = variable["valueFrom"]["secretKeyRef"]
                    assert found[f"{namespace}.{reference['name']}"][reference["key"]]
        if item["kind"] == "ServiceMonitor":
            reference = item["spec"]["endpoints"][0]["authorization"]["credentials"]
            assert found[f"{namespace}.{reference['name']}"][reference["key"]]
    for profile in ("twin", "gpu-7b"):
        placement = compose(profile, (), {}).placement
        for name, keys in [pair for step in placement.steps.values() for pair in step.secrets.items()]:
            if name != "pixelis-recordings":  # the user's own store
                assert set(keys) <= set(found[f"kubeflow.{name}"])
    assert f"kubeflow.{EXCHANGE_SECRET}" in found


def test_the_keys_open_the_service_with_the_roles_they_should_have(cluster: Path, tmp_path: Path) -> None:
    out = run(cluster)
    found = secrets(cluster)
    (tmp_path / "keys.json").write_text(found["pixelis.pixelis-ttrl-keys"]["keys.json"])
    keeper = Gatekeeper.load(str(tmp_path / "keys.json"), "0.0.0.0")
    admin = out.rpartition("shown this once: ")[2].strip()
    given = {
        found["kubeflow.pixelis-ttrl-client"]["PIXELIS_API_KEY"]: "client",
        found["pixelis.pixelis-ttrl-scrape"]["token"]: "viewer",
        admin: "admin",
    }
    for key, role in given.items():
        who = keeper.identify(key)
        assert who is not None and who.role == role
        assert key not in found["pixelis.pixelis-ttrl-keys"]["keys.json"], "only hashes are stored"
    account = json.loads(found["pixelis.pixelis-object-store"]["s3.json"])["identities"][0]["credentials"][0]
    assert account["secretKey"] == found["pixelis.pixelis-object-store"]["AWS_SECRET_ACCESS_KEY"]


def test_a_second_time_changes_nothing(cluster: Path) -> None:
    run(cluster)
    before = secrets(cluster)
    assert "admin key" not in run(cluster)
    assert secrets(cluster) == before


def test_without_the_pipelines_store_no_secret_is_made_empty(cluster: Path) -> None:
    (cluster / "kubeflow.mlpipeline-minio-artifact.json").unlink()
    with pytest.raises(AssertionError, match="PIXELIS_SECRETS_NAMESPACE"):
        run(cluster)
    assert not {"pixelis.pixelis-model-store", f"kubeflow.{EXCHANGE_SECRET}"} & set(secrets(cluster))
