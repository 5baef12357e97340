"""Where each step runs: image, processor, memory, accelerator, time limit, retries, volumes, secrets, nodes.

The only code that touches any of it. Everything here is fixed when the pipeline is compiled; local runs ignore all but
the image's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from components.shared.runtime.config import Section
from pipelines.steps import BY_NAME

if TYPE_CHECKING:
    from kfp import dsl


class Resources(Section):
    """What one task asks for."""

    cpu: str = Field("2", pattern=r"^\d+(\.\d+)?m?$")
    """Processor request and limit, in cores."""
    memory: str = Field("8Gi", pattern=r"^\d+(Ki|Mi|Gi|Ti)$")
    """Memory request and limit."""
    accelerator: str = ""
    """Accelerator resource, such as `nvidia.com/gpu`; empty for none."""
    accelerator_count: int = Field(0, ge=0, le=16)
    """How many accelerators."""
    shm: str = Field("", pattern=r"^$|^\d+(Mi|Gi)$")
    """Size of /dev/shm for data-loading workers; empty for the node's default."""
    timeout_s: int = Field(7200, ge=60)
    """Seconds after which the task is stopped."""
    retries: int = Field(1, ge=0, le=5)
    """How often a failed task is tried again."""
    volumes: dict[str, str] = {}
    """Claims by the path where the task sees them: `/data: openpack`."""
    secrets: dict[str, tuple[str, ...]] = {}
    """Keys of Secrets that become environment variables of the same name; a Secret that is missing is passed over."""
    node_selector: dict[str, str] = {}
    """Labels of the nodes it may run on. An accelerator's taint is tolerated without being named."""


class PlacementSection(Section):
    """Images and resources of all steps."""

    registry: str = Field("ghcr.io/pixelis", min_length=1)
    """Registry and namespace of the images."""
    tag: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    """Image tag; empty: the git commit the pipeline is compiled from."""
    variant: str = Field("cpu", pattern=r"^(cpu|gpu)$")
    """Which build of the images: cpu or gpu."""
    image_pull_policy: str = Field("IfNotPresent", pattern=r"^(Always|IfNotPresent|Never)$")
    """Kubernetes image pull policy."""
    defaults: Resources = Resources()
    """Resources of every step not named in `steps`."""
    steps: dict[str, Resources] = {}
    """Resources by step name."""

    def resources(self, step: str) -> Resources:
        """What a step asks for."""
        return self.steps.get(step, self.defaults)

    def image(self, step: str) -> str:
        """Full image name of a step."""
        return f"{self.registry}/pixelis-{BY_NAME[step].image}:{self.tag}-{self.variant}"


def place(task: dsl.PipelineTask, step: str, placement: PlacementSection, *, retries: bool = True) -> dsl.PipelineTask:
    """Give a task its image, resources, limits and the run's id."""
    from kfp import kubernetes

    resources = placement.resources(step)
    task.set_container_image(placement.image(step))
    task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu)
    task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    if resources.accelerator:
        task.set_accelerator_type(resources.accelerator).set_accelerator_limit(resources.accelerator_count)
    if retries and resources.retries:
        task.set_retry(num_retries=resources.retries, backoff_duration="30s")
    if resources.shm:
        kubernetes.empty_dir_mount(
            task, volume_name="dshm", mount_path="/dev/shm", medium="Memory", size_limit=resources.shm
        )
    for path, claim in resources.volumes.items():
        kubernetes.mount_pvc(task, pvc_name=claim, mount_path=path)
    for secret, keys in resources.secrets.items():
        kubernetes.use_secret_as_env(
            task, secret_name=secret, secret_key_to_env={key: key for key in keys}, optional=True
        )
    for label, value in resources.node_selector.items():
        kubernetes.add_node_selector(task, label_key=label, label_value=value)
    if resources.accelerator:
        kubernetes.add_toleration(task, key=resources.accelerator, operator="Exists", effect="NoSchedule")
    if step == "ttrl":  # the step that deploys: which image the service runs, and that it is in a pod at all
        task.set_env_variable("PIXELIS_SERVE_IMAGE", placement.image(step))
        kubernetes.use_field_path_as_env(task, env_name="PIXELIS_POD_NAMESPACE", field_path="metadata.namespace")
    kubernetes.set_timeout(task, seconds=resources.timeout_s)
    kubernetes.set_image_pull_policy(task, placement.image_pull_policy)
    kubernetes.use_field_path_as_env(task, env_name="PIXELIS_RUN_ID", field_path="metadata.labels['pipeline/runid']")
    kubernetes.use_config_map_as_env(
        task,
        config_map_name="pixelis-tracking",
        config_map_key_to_env={"MLFLOW_TRACKING_URI": "MLFLOW_TRACKING_URI"},
        optional=True,
    )
    return task
