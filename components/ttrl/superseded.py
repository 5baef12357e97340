"""Which stored configurations no release refers to any more, and their removal once a new release has proved itself.

A configuration is an immutable ConfigMap that the deployment step made (`cluster_api.Cluster.keep_config`). It is kept
while the Deployment's template, a ReplicaSet of its history (`kubectl rollout undo` goes back to one) or the release
before mentions it. RBAC knows no prefixes and no labels, so the account may delete any ConfigMap of the namespace: that
only our own are is decided here.

Not guaranteed: several deployments of one service at the same moment. A configuration that another step has just
stored and not yet asked for is spared for `FRESH_S`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from components.ttrl.cluster_api import FIELD_MANAGER, MANAGED_BY, Cluster
from components.ttrl.release import CONFIG_MAP, Release

OURS = re.compile(rf"{CONFIG_MAP}-[0-9a-f]{{10}}")
FRESH_S = 600.0
"""A configuration younger than this may belong to a release that is being asked for."""


def superseded(
    config_maps: Iterable[dict[str, Any]],
    templates: Iterable[dict[str, Any]],
    releases: Iterable[Release],
    *,
    now: float,
) -> list[str]:
    """Names of our configurations that nothing refers to.

    Args:
        config_maps: As the API lists them.
        templates: Pod templates of the Deployment and of its history.
        releases: Whose configurations stay whatever the templates say.
        now: Seconds since the epoch.
    """
    mentioned = {name for template in templates for name in OURS.findall(json.dumps(template))}
    kept = mentioned | {release.config_map for release in releases}
    return sorted(
        item["metadata"]["name"]
        for item in config_maps
        if item["metadata"]["name"] not in kept and is_ours(item["metadata"]) and age_s(item["metadata"], now) > FRESH_S
    )


def is_ours(metadata: dict[str, Any]) -> bool:
    """Whether the deployment step made it: by name and by label."""
    made_by = (metadata.get("labels") or {}).get(MANAGED_BY)
    return OURS.fullmatch(metadata["name"]) is not None and made_by == FIELD_MANAGER


def age_s(metadata: dict[str, Any], now: float) -> float:
    """Seconds since an object was made."""
    return now - datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()


def prune(cluster: Cluster, releases: Iterable[Release]) -> list[str]:
    """Delete the configurations that are superseded; returns their names.

    Raises:
        EnvironmentFault: the cluster refuses or does not answer; what was deleted before that stays deleted.
    """
    found = cluster.configs()  # before the templates: what is asked for meanwhile is seen there
    templates = [item["spec"]["template"] for item in (cluster.deployment(), *cluster.history())]
    names = superseded(found, templates, releases, now=time.time())
    for name in names:
        cluster.delete_config(name)
    return names
