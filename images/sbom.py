"""Prints what is installed in this interpreter as a CycloneDX 1.5 bill of materials; run while an image is built."""

from __future__ import annotations

import json
import sys
from importlib.metadata import Distribution, distributions
from typing import Any


def component(found: Distribution) -> dict[str, Any]:
    """One distribution."""
    name, version = found.metadata["Name"], found.version
    item: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
    }
    licence = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    if licence and len(licence) < 100:
        item["licenses"] = [{"license": {"name": licence.splitlines()[0]}}]
    return item


def bill() -> dict[str, Any]:
    """The whole bill, sorted by name; the same environment gives the same text."""
    items = {item["purl"]: item for item in map(component, distributions())}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "pixelis-base"}},
        "components": [items[key] for key in sorted(items)],
    }


if __name__ == "__main__":
    json.dump(bill(), sys.stdout, indent=1)
