"""An object of the cluster as the fields that server-side apply gives owners to, and back."""

from __future__ import annotations

import copy
from typing import Any

MERGE_KEYS = {"containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "tolerations": None}
Leaves = dict[tuple[str, ...], Any]


def leaves(value: Any, path: tuple[str, ...] = ()) -> Leaves:
    """An object as its fields; entries of map-lists by their key, other lists whole."""
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in leaves(item, (*path, key)).items()}
    key = MERGE_KEYS.get(path[-1]) if path else None
    if isinstance(value, list) and key:
        return {k: v for item in value for k, v in leaves(item, (*path, f"{key}={item[key]}")).items()}
    return {path: value}


def build(fields: Leaves) -> Any:
    """The object of its fields."""
    result: dict[str, Any] = {}
    for path, value in fields.items():
        place: Any = result
        for name, after in zip(path, (*path[1:], None), strict=True):
            if "=" in name and isinstance(place, list):
                key, _, wanted = name.partition("=")
                found = next((item for item in place if item[key] == wanted), None)
                if found is None:
                    found = {key: wanted}
                    place.append(found)
                place = found
            elif after is None:
                place[name] = copy.deepcopy(value)
            else:
                fresh: Any = [] if name in MERGE_KEYS and MERGE_KEYS[name] and "=" in after else {}
                place = place.setdefault(name, fresh)
    return result
