"""What a release on a cluster is made of, as the fields of the Deployment that the deployment step owns.

Role: `launcher_kubernetes` applies it, `superseded` compares with it. The workload is `manifests/base/ttrl.yaml`.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from components.shared.runtime.config import canonical_json
from components.ttrl.config import TtrlConfig

DEPLOYMENT = "pixelis-ttrl"
CONFIG_MAP = "pixelis-ttrl-config"
CONTAINER, INIT_CONTAINER = "ttrl", "model"
ANNOTATION = "pixelis.io/"


def in_cluster(config: TtrlConfig) -> TtrlConfig:
    """The section as the service in a pod has it: reachable, with keys, state on its volume."""
    return config.model_copy(
        update={"host": "0.0.0.0", "port": 8400, "keys_file": "/etc/pixelis/keys/keys.json", "state_dir": ""}  # noqa: S104
    )


@dataclass(frozen=True)
class Release:
    """What serves: everything the deployment step owns of the workload."""

    image: str
    config_map: str
    model_uri: str = ""
    model_sha256: str = ""

    @property
    def digest(self) -> str:
        """Names the release on its pods."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:16]

    def apply_body(self, namespace: str) -> dict[str, Any]:
        """The fields of the Deployment that this release owns."""
        notes = {f"{ANNOTATION}release": self.digest}
        variables = []
        if self.model_uri:
            notes |= {f"{ANNOTATION}model-uri": self.model_uri, f"{ANNOTATION}model-sha256": self.model_sha256}
            variables = [
                {"name": "PIXELIS_MODEL_URI", "value": self.model_uri},
                {"name": "PIXELIS_MODEL_SHA256", "value": self.model_sha256},
            ]
        spec = {
            "initContainers": [{"name": INIT_CONTAINER, "image": self.image, "env": variables}],
            "containers": [{"name": CONTAINER, "image": self.image}],
            "volumes": [{"name": "config", "configMap": {"name": self.config_map}}],
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": DEPLOYMENT, "namespace": namespace},
            "spec": {"template": {"metadata": {"annotations": notes}, "spec": spec}},
        }

    @classmethod
    def of(cls, deployment: dict[str, Any]) -> Release:
        """The release a Deployment asks for now."""
        template = deployment["spec"]["template"]
        notes = template.get("metadata", {}).get("annotations") or {}
        container = next(item for item in template["spec"]["containers"] if item["name"] == CONTAINER)
        volume = next(item for item in template["spec"]["volumes"] if item["name"] == "config")
        return cls(
            image=container["image"],
            config_map=volume["configMap"]["name"],
            model_uri=notes.get(f"{ANNOTATION}model-uri", ""),
            model_sha256=notes.get(f"{ANNOTATION}model-sha256", ""),
        )
