"""Prints what this interpreter and the Debian below it have installed, as a CycloneDX 1.5 bill of materials.

python sbom.py NAME         while an image is built; NAME becomes the bill's subject
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG = Path("/var/lib/dpkg/status")


def component(found: Distribution) -> dict[str, Any]:
    """One distribution."""
    name, version = found.metadata["Name"], found.version
    item: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
    }
    expression, free = found.metadata.get("License-Expression"), (found.metadata.get("License") or "").strip()
    if expression:
        item["licenses"] = [{"expression": expression}]
    elif free and len(free) < 100:
        item["licenses"] = [{"license": {"name": free.splitlines()[0]}}]
    return item


def debian(status: str) -> list[dict[str, Any]]:
    """The installed packages of a dpkg status file."""
    items = []
    for block in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={fields['Architecture']}"
            items.append({"type": "library", "name": name, "version": version, "purl": purl})
    return items


def bill(subject: str, status: str = "") -> dict[str, Any]:
    """The whole bill, sorted by package URL; the same environment gives the same text."""
    items = {item["purl"]: item for item in [*map(component, distributions()), *debian(status)]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": subject}},
        "components": [items[key] for key in sorted(items)],
    }


if __name__ == "__main__":
    json.dump(bill(sys.argv[1], DPKG.read_text() if DPKG.is_file() else ""), sys.stdout, indent=1)
