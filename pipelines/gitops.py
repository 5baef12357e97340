"""The pipeline as Kubernetes resources (`Pipeline`, `PipelineVersion`), for clusters that are changed through git only.

A PipelineVersion cannot be changed once it exists, so its name holds the commit and the digest of what was compiled.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import yaml

from components.shared.runtime.config import canonical_json
from pipelines.cluster import pipeline_name
from pipelines.config import compose, git_sha
from pipelines.training import build


def resources(profile: str, overrides: tuple[str, ...], namespace: str) -> list[dict[str, Any]]:
    """The profile's Pipeline and PipelineVersion."""
    from kfp import compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    name = pipeline_name(profile)
    options = KubernetesManifestOptions(
        pipeline_name=name,
        pipeline_version_name=name,
        namespace=namespace,
        include_pipeline_manifest=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resources.yaml"
        compiler.Compiler().compile(
            build(compose(profile, overrides, {})),
            str(path),
            kubernetes_manifest_options=options,
            kubernetes_manifest_format=True,
        )
        objects = [item for item in yaml.safe_load_all(path.read_text()) if item is not None]
    for item in objects:
        if item["kind"] == "PipelineVersion":
            digest = hashlib.sha256(canonical_json(item["spec"]).encode()).hexdigest()
            item["metadata"]["name"] = f"{name}-{git_sha()[:12]}-{digest[:8]}"
            item["spec"]["displayName"] = f"{git_sha()[:12]}-{digest[:8]}"
            item["spec"]["description"] = f"sha256:{digest}"
    return objects
