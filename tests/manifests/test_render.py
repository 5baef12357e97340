"""Rendering: the same objects as kubectl's kustomize; what is not understood is refused by name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.runtime.errors import ConfigError, InputError
from pipelines import manifests
from pipelines.kustomize import apply_patch, render

ROOT = Path(__file__).parents[2] / "manifests"


def by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    found = {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o for o in objects}
    assert len(found) == len(objects), "two objects of one kind and name"
    return found


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, whose kustomize is the reference")
@pytest.mark.parametrize("folder", ["overlays/local", "overlays/gpu", "gateway", "monitoring", "ingress", "trainer"])
def test_the_same_objects_as_kubectl_kustomize(folder: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(ROOT / folder)], capture_output=True, text=True, check=True)
    assert by_name(render(ROOT / folder)) == by_name([o for o in yaml.safe_load_all(done.stdout) if o])


@pytest.mark.parametrize(("profile", "name"), list(manifests.GENERATED.items()))
def test_the_generated_config_map_is_what_the_configuration_says(profile: str, name: str) -> None:
    """Renew with `make manifests-config`."""
    assert (ROOT / name).read_text() == manifests.config_map(profile)


def test_the_generated_section_is_one_the_service_accepts(everything: list[dict[str, Any]]) -> None:
    from components.ttrl.config import TtrlConfig

    found = [o for o in everything if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "pixelis-ttrl-config"]
    assert len(found) == 2
    for item in found:
        section = TtrlConfig.parse(item["data"]["ttrl.json"], name="ttrl")
        assert section.host == "0.0.0.0"
        assert section.keys_file.startswith("/etc/pixelis/keys/"), "an open service would refuse to start on 0.0.0.0"


def test_the_overlay_reaches_the_objects() -> None:
    service = next(
        o
        for o in render(ROOT / "overlays/gpu")
        if o["metadata"]["name"] == "pixelis-ttrl" and o["kind"] == "Deployment"
    )
    spec = service["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    assert {c["image"].rpartition(":")[2] for c in spec["containers"] + spec["initContainers"]} == {"0.1.0-gpu"}


@pytest.mark.parametrize(
    "patch",
    [
        {"target": {"kind": "Deployment", "name": "other"}, "patch": "- {op: add, path: /a, value: 1}"},
        {"target": {"kind": "Deployment"}, "patch": "- {op: remove, path: /metadata/name}"},
        {"target": {"kind": "Deployment"}, "patch": "- {op: replace, path: /spec/none, value: 1}"},
        {"target": {"kind": "Deployment"}, "patch": "spec: {items: [1]}"},
        {"target": {"kind": "Deployment", "labelSelector": "a=b"}, "patch": "- {op: add, path: /a, value: 1}"},
        {"target": {"kind": "Deployment"}, "patch": "spec: {items: null}"},
        {"target": {"kind": "Deployment"}, "patch": "spec: {a: 1}", "options": {"allowNameChange": True}},
    ],
    ids=["no target", "remove", "replace of nothing", "list merge", "selector target", "deletion", "options"],
)
def test_a_patch_that_is_not_understood_or_does_nothing_is_refused(patch: dict[str, Any], tmp_path: Path) -> None:
    objects = [{"kind": "Deployment", "metadata": {"name": "x"}, "spec": {}}]
    with pytest.raises(ConfigError):
        apply_patch(objects, patch, tmp_path)


def test_an_unknown_field_of_a_kustomization_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\nnamePrefix: a-\n")
    with pytest.raises(ConfigError, match="namePrefix"):
        render(tmp_path)


def test_a_missing_resource_is_named(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [gone.yaml]\n")
    with pytest.raises(InputError, match="gone"):
        render(tmp_path)


@pytest.mark.parametrize("more", ["newName: other, newTag: '2'", "digest: sha256:0"])
def test_a_change_of_images_that_is_not_understood_is_refused(more: str, tmp_path: Path) -> None:
    pod = {"kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))
    (tmp_path / "kustomization.yaml").write_text(f"resources: [pod.yaml]\nimages: [{{name: a, {more}}}]\n")
    with pytest.raises(ConfigError, match="images"):
        render(tmp_path)
