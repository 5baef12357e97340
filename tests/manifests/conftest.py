"""Every folder of `manifests/` that kubectl would apply, rendered once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.kustomize import render

ROOT = Path(__file__).parents[2] / "manifests"
FOLDERS = ("overlays/local", "overlays/gpu", "gateway", "trainer")


@pytest.fixture(scope="session", params=FOLDERS)
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The objects of one folder."""
    return render(ROOT / request.param)


@pytest.fixture(scope="session")
def everything() -> list[dict[str, Any]]:
    """The objects of all folders, those of several overlays several times."""
    return [item for folder in FOLDERS for item in render(ROOT / folder)]
