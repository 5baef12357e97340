"""Renders the part of kustomize that `manifests/` uses, so that rendering and checking need no binary.

Understood: `resources` (files and folders), `namespace`, `labels` without selectors, `images` (newTag), `patches` as
JSON 6902 operations with a target, and as strategic merges that contain maps only. Anything else is refused by name.
`kubectl kustomize` gives the same objects (a test compares them where kubectl is there); their order may differ.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from components.shared.runtime.errors import ConfigError, InputError

KNOWN = {"apiVersion", "kind", "namespace", "resources", "labels", "images", "patches"}
CLUSTER_KINDS = {"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PriorityClass"}
POD_SPECS = (("spec", "template", "spec"), ("spec", "jobTemplate", "spec", "template", "spec"), ("spec",))

Object = dict[str, Any]


def render(folder: Path) -> list[Object]:
    """All objects of a kustomization.

    Raises:
        InputError: the folder holds no kustomization, or a resource of it is missing.
        ConfigError: it uses something this renderer does not know.
    """
    file = folder / "kustomization.yaml"
    if not file.is_file():
        raise InputError(f"{folder} holds no kustomization.yaml, so there is nothing to render.")
    wanted = yaml.safe_load(file.read_text())
    unknown = sorted(set(wanted) - KNOWN)
    if unknown:
        raise ConfigError(
            f"{file}: {', '.join(unknown)} is not understood here.", remedy="Render with kubectl kustomize."
        )
    objects: list[Object] = []
    for name in wanted.get("resources", []):
        objects += render(folder / name) if (folder / name).is_dir() else read_objects(folder / name)
    for patch in wanted.get("patches", []):
        apply_patch(objects, patch, folder)
    for item in objects:
        set_namespace(item, wanted.get("namespace", ""))
        set_labels(item, wanted.get("labels", []))
        set_images(item, wanted.get("images", []))
    return objects


def read_objects(path: Path) -> list[Object]:
    """The documents of a YAML file."""
    if not path.is_file():
        raise InputError(f"{path} does not exist, but a kustomization names it.")
    return [item for item in yaml.safe_load_all(path.read_text()) if item is not None]


def set_namespace(item: Object, namespace: str) -> None:
    """Put a namespaced object into the namespace."""
    if namespace and item["kind"] not in CLUSTER_KINDS:
        item["metadata"]["namespace"] = namespace


def set_labels(item: Object, labels: list[Object]) -> None:
    """Add labels to the object's own metadata."""
    for entry in labels:
        if set(entry) - {"pairs", "includeSelectors"} or entry.get("includeSelectors"):
            raise ConfigError("labels that reach selectors or templates are not understood here.")
        item["metadata"].setdefault("labels", {}).update(entry["pairs"])


def set_images(item: Object, images: list[Object]) -> None:
    """Change the tag of images by name; raises ConfigError for any other change."""
    for entry in images:
        if set(entry) != {"name", "newTag"}:
            raise ConfigError(f"images entry {entry}: only name with newTag is understood here.")
    tags = {entry["name"]: entry["newTag"] for entry in images}
    for container in containers(item):
        name, _, _ = container["image"].rpartition(":")
        if name in tags:
            container["image"] = f"{name}:{tags[name]}"


def pod_spec(item: Object) -> Object | None:
    """The pod specification inside a workload, None where the object has none."""
    if item["kind"] in ("TrainingRuntime", "ClusterTrainingRuntime"):
        [job] = item["spec"]["template"]["spec"]["replicatedJobs"]
        item = job["template"]
    for path in POD_SPECS:
        found: Any = item
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict) and "containers" in found:
            return found
    return None


def containers(item: Object) -> list[Object]:
    """All containers of a workload, those that run before the others included."""
    spec = pod_spec(item) or {}
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def apply_patch(objects: list[Object], patch: Object, folder: Path) -> None:
    """Apply one entry of `patches` to every object it is for.

    Raises:
        ConfigError: nothing matches, or the patch is of a kind that is not understood.
    """
    if set(patch) - {"patch", "path", "target"}:
        raise ConfigError(f"patch with {', '.join(sorted(patch))}: only patch, path and target are understood here.")
    text = patch.get("patch") or (folder / patch["path"]).read_text()
    change = yaml.safe_load(text)
    target = patch.get("target") or {"kind": change["kind"], "name": change["metadata"]["name"]}
    if set(target) - {"kind", "name"}:
        raise ConfigError(f"patch target {target}: only kind and name are understood here.")
    chosen = [item for item in objects if matches(item, target)]
    if not chosen:
        raise ConfigError(f"no object matches the patch target {target}, so the patch would do nothing.")
    for item in chosen:
        if isinstance(change, list):
            for operation in change:
                operate(item, operation)
        else:
            merge_maps(item, change)


def matches(item: Object, target: Object) -> bool:
    """Whether an object is what a patch is for."""
    return item["kind"] == target.get("kind", item["kind"]) and item["metadata"]["name"] == target.get(
        "name", item["metadata"]["name"]
    )


def operate(item: Object, operation: Object) -> None:
    """One JSON 6902 operation: add or replace."""
    if operation["op"] not in ("add", "replace"):
        raise ConfigError(f"patch operation {operation['op']!r} is not understood here.")
    keys = [key.replace("~1", "/").replace("~0", "~") for key in operation["path"].split("/")[1:]]
    place: Any = item
    for key in keys[:-1]:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if isinstance(place, list):
        raise ConfigError(f"patch path {operation['path']}: changing a list's own entries is not understood here.")
    if operation["op"] == "replace" and keys[-1] not in place:
        raise ConfigError(
            f"patch path {operation['path']} does not exist in {item['kind']}/{item['metadata']['name']}."
        )
    place[keys[-1]] = copy.deepcopy(operation["value"])


def merge_maps(base: Object, over: Object) -> None:
    """Strategic merge of maps; lists would need a merge key of each type and are refused, as is null (it deletes)."""
    for key, value in over.items():
        if isinstance(value, list) or value is None:
            raise ConfigError(f"a merge patch with a list or null ({key}) is not understood here.")
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge_maps(base[key], value)
        else:
            base[key] = copy.deepcopy(value)
