"""MLflow as the manifest starts it, on a real Postgres, without containers: figures, an artifact and a version survive.

Needs Postgres' own binaries (Debian: postgresql) and, as root, the user `postgres`; skipped where they are missing.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.kustomize import read_objects

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
BACKEND = "MLFLOW_BACKEND_STORE_URI"
SERVICE = "mlflow.pixelis.svc.cluster.local:5000"
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not BINARIES, reason="needs Postgres' binaries")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def container() -> dict[str, Any]:
    manifest = Path(__file__).parents[2] / "manifests" / "base" / "mlflow.yaml"
    deployment = next(item for item in read_objects(manifest) if item["kind"] == "Deployment")
    return deployment["spec"]["template"]["spec"]["containers"][0]


@pytest.fixture
def postgres() -> Iterator[int]:
    """A fresh database; its port."""
    folder = Path(tempfile.mkdtemp(prefix="pixelis-pg-"))
    port, prefix = free_port(), []
    if os.geteuid() == 0:
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("Postgres refuses to run as root, and there is no user postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def run(name: str, *arguments: str) -> None:
        done = subprocess.run([*prefix, str(BINARIES[-1] / name), *arguments], cwd=folder, stdout=subprocess.DEVNULL)
        assert done.returncode == 0, name

    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    run("initdb", "-D", f"{folder}/data", "-U", "mlflow", "-A", "trust")
    run("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
    run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow")
    yield port
    run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)


def address(database: int) -> str:
    """The manifest's database, on this machine."""
    [uri] = [entry["value"] for entry in container()["env"] if entry["name"] == BACKEND]
    return uri.replace("$(POSTGRES_PASSWORD)", "any").replace("pixelis-postgres:5432", f"127.0.0.1:{database}")


def bring_schema_up(database: int) -> str:
    """Run the init container that upgrades the schema; what it printed."""
    manifest = Path(__file__).parents[2] / "manifests" / "base" / "mlflow.yaml"
    deployment = next(item for item in read_objects(manifest) if item["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    [found] = [item for item in spec["initContainers"] if item["name"] == "schema"]
    [uri] = [entry["value"] for entry in found["env"] if entry["name"] == BACKEND]
    assert uri in {entry.get("value") for entry in spec["containers"][0]["env"]}, "both mean the same database"
    environment = {**os.environ, BACKEND: address(database)}
    done = subprocess.run([sys.executable, *found["command"][1:]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


class Server:
    """The manifest's command, with addresses of this machine."""

    def __init__(self, database: int, folder: Path) -> None:
        found = container()
        self.port = free_port()
        changed = {"--host": "127.0.0.1", "--port": str(self.port), "--artifacts-destination": f"{folder}/artifacts"}
        arguments = [f"{key}={changed.get(key, value)}" for key, _, value in (a.partition("=") for a in found["args"])]
        variables = {entry["name"]: entry.get("value", "") for entry in found["env"]}
        self.log = (folder / "mlflow.log").open("ab")
        uri = address(database)
        self.process = subprocess.Popen(
            [sys.executable, *found["command"][1:], *arguments],
            env={**os.environ, **{k: v for k, v in variables.items() if k.startswith("MLFLOW_")}, BACKEND: uri},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
        self.stop()
        raise AssertionError((folder / "mlflow.log").read_text()[-2000:])

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self.log.close()

    def asked_as(self, host: str) -> int:
        url = f"http://127.0.0.1:{self.port}/api/2.0/mlflow/experiments/search"
        return httpx.post(url, json={"max_results": 1}, headers={"Host": host}, timeout=60, trust_env=False).status_code


def test_what_is_tracked_survives_the_servers_restart(
    postgres: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assert bring_schema_up(postgres) == "", "a fresh database is left to the server"
    server = Server(postgres, tmp_path)
    try:
        assert server.asked_as(SERVICE) == 200
        assert server.asked_as("evil.example") == 403, "only the Service's names are answered"
        api = MlflowClient(f"http://localhost:{server.port}")
        run = api.create_run(api.create_experiment("pixelis"), tags={"pixelis.run_id": "r1"})
        api.log_metric(run.info.run_id, "oca", 0.5)
        api.log_text(run.info.run_id, "report", "report.md")
        api.create_registered_model("pixelis-twin")
        version = api.create_model_version("pixelis-twin", source=run.info.artifact_uri, run_id=run.info.run_id)
        api.set_registered_model_alias("pixelis-twin", "champion", version.version)
    finally:
        server.stop()
    assert "Updating database tables" in bring_schema_up(postgres)
    server = Server(postgres, tmp_path)
    try:
        api = MlflowClient(f"http://localhost:{server.port}")
        assert api.get_run(run.info.run_id).data.metrics == {"oca": 0.5}
        assert Path(api.download_artifacts(run.info.run_id, "report.md", str(tmp_path))).read_text() == "report"
        assert api.get_model_version_by_alias("pixelis-twin", "champion").run_id == run.info.run_id
    finally:
        server.stop()
