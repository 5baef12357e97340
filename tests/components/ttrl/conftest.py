"""Fixtures of the service's tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from ttrl_support import Server, write_promoted


@pytest.fixture(scope="session")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_promoted(tmp_path_factory.mktemp("promoted"))


@pytest.fixture
def serve():
    """Start services; every one still running at the end is killed."""
    servers: list[Server] = []

    def start(model: Path | None, state: Path, **settings: object) -> Server:
        servers.append(Server(model, state, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.client.close()
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster's API (cluster_double.py), from the rendered manifests."""
    from cluster_double import ClusterDouble, serve

    yield from serve(ClusterDouble())


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Promoted models where KFP shows a store."""
    from components.shared.runtime import stores

    monkeypatch.setitem(stores.MOUNTS, f"{tmp_path}/store/", "minio://")
    folders = []
    for name in ("one", "two"):
        folder = tmp_path / "store" / "mlpipeline" / "v2" / name
        folder.mkdir(parents=True)
        (folder / "promotion.json").write_text(json.dumps({"provenance": "synthetic", "name": name}))
        folders.append(folder)
    return folders
