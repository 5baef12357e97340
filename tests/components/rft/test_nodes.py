"""Reinforcement on two nodes: the real step, from the TrainJob that a double of the cluster received, to its report."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "shared" / "runtime"))
from trainer_double import NAMESPACE, TrainerDouble, clean_environment, serve

from components.rft.config import RftConfig
from components.rft.train import RESULT, RftInputs, RftOutputs
from components.shared.policy.load import load_policy
from components.shared.runtime import stores
from components.shared.runtime.artifacts import read_json
from components.shared.runtime.stores import find, put_folder
from components.shared.runtime.train_job import Nodes, run_on_nodes

pytestmark = pytest.mark.e2e


def trainer_client(address: str) -> Any:
    from kubeflow.common.types import KubernetesBackendConfig
    from kubeflow.trainer import TrainerClient
    from kubernetes import client

    settings = client.Configuration()
    settings.host = address
    return TrainerClient(KubernetesBackendConfig(namespace=NAMESPACE, client_configuration=settings))


def test_two_nodes_reinforce_one_adapter(
    toy: Any, tiny_base: dict[str, Path], store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each node is a torchrun of one process; the first one's adapter, checkpoints and report are the job's."""
    place = tmp_path / "minio" / "mlpipeline" / "v2"
    toy.write_artifacts(place, num_clips=8)
    for name, folder in tiny_base.items():
        shutil.copytree(folder, place / name)
    (place / "encoder").mkdir()
    (place / "encoder" / "unread").write_text("no novelty reward, so nobody reads it")
    put_folder(place, "minio://mlpipeline/v2")
    monkeypatch.setitem(stores.MOUNTS, f"{tmp_path}/minio/", "minio://")
    (tmp_path / "nodes").mkdir()
    double = TrainerDouble(
        tmp_path / "nodes", clean_environment(PIXELIS_NODE_DIR=str(tmp_path / "nodes"), OMP_NUM_THREADS="1")
    )
    double.environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    server = serve(double)
    nodes = Nodes(
        image="i", num_nodes=2, cpu="1", memory="2Gi", timeout_s=300, exchange="s3://mlpipeline/x", namespace=NAMESPACE
    )
    config = RftConfig(steps=2, num_groups=2, group_size=3, max_new_tokens=6, num_validation=4, checkpoint_every=1)
    outputs = RftOutputs(adapter=tmp_path / "adapter", work=tmp_path / "rft-0123")
    outputs.work.mkdir()
    inputs = RftInputs(**{name: place / name for name in ("trajectories", "clips", "base", "adapter", "encoder")})
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        report = run_on_nodes(nodes, "rft", config, inputs, outputs, client=trainer_client(address), poll_s=0.2)
    finally:
        for name in list(double.nodes):
            double.stop(name)
        server.shutdown()
        server.server_close()
    assert (double.attempts, report.metrics["num_processes"], report.metrics["updates"]) == (1, 2, 2)
    assert read_json(outputs.adapter / RESULT)
    assert load_policy(tiny_base["base"], outputs.adapter).has_adapter
    assert find("s3://mlpipeline/x") == {}, "what was kept is removed once the results are here"
