"""Fixtures of the service's tests."""

from __future__ import annotations

import sys
from pathlib import Path

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
