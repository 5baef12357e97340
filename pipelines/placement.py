"""Where each step runs: image, processor, memory, accelerator, time limit, retries, volumes, secrets, nodes.

The only code that touches any of it. Everything here is fixed when the pipeline is compiled; local runs ignore all but
the image's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from components.shared.runtime import train_job
from components.shared.runtime.config import Section
from pipelines.steps import BY_NAME

if TYPE_CHECKING:
    from kfp import dsl

SEVERAL = tuple(name for name, step in BY_NAME.items() if step.several_nodes)
EXCHANGE_SECRET = "pixelis-exchange"  # noqa: S105 - a Secret's name
EXCHANGE_KEYS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


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
    num_nodes: int = Field(1, ge=1, le=64)
    """Nodes that train together, each as described here; over 1 needs Kubeflow Trainer v2 and an `exchange`."""

    @model_validator(mode="after")
    def _nodes_bring_their_own(self) -> Self:
        if self.num_nodes > 1 and self.volumes:
            raise ValueError("volumes do not reach the nodes of a TrainJob; name an object store's address instead")
        return self


LIGHT = {"cpu": "1", "memory": "2Gi", "accelerator": "", "accelerator_count": 0, "shm": "", "node_selector": {}}
"""What a task asks for that only reads a few lines, or whose work several nodes do."""
BACKOFF_S = 30
"""Before the first retry; twice as long before each further one."""
PENDING_S = 3600
"""How long an attempt may wait for a node, of a pool that grows."""
LAUNCHER_MARGIN_S = 1800
"""How much longer the launcher may take than its nodes: scheduling, results."""


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
    exchange: str = Field("", pattern=r"^$|^(s3|minio|gs)://[^/]+")
    """Address in an object store that keeps checkpoints between a step's attempts, and results of its nodes; empty:
    a pod that is lost takes its checkpoints along. Needs the Secret pixelis-exchange."""
    defaults: Resources = Resources()
    """Resources of every step."""
    steps: dict[str, Resources] = {}
    """Resources by step name, laid over `defaults` key by key."""

    @model_validator(mode="after")
    def _steps_exist_and_can_do_this(self) -> Self:
        for name in self.steps:
            if name not in BY_NAME:
                raise ValueError(f"steps.{name}: no such step; choose among {', '.join(BY_NAME)}")
            if self.resources(name).num_nodes > 1:
                if not BY_NAME[name].several_nodes:
                    raise ValueError(f"steps.{name}.num_nodes: only {', '.join(SEVERAL)} train on several nodes")
                if not self.exchange:
                    raise ValueError(f"steps.{name}.num_nodes is over 1, so `exchange` must name an object store")
        if self.defaults.num_nodes > 1:
            raise ValueError("defaults.num_nodes: say it for a step")
        return self

    @model_validator(mode="after")
    def _accelerators_are_counted(self) -> Self:
        for name in BY_NAME:
            asked = self.resources(name)
            if bool(asked.accelerator) != bool(asked.accelerator_count):
                raise ValueError(
                    f"steps.{name}: accelerator {asked.accelerator!r} with accelerator_count {asked.accelerator_count} "
                    "gives the step none; set both or neither"
                )
        return self

    def resources(self, step: str) -> Resources:
        """What a step asks for."""
        own = self.steps.get(step)
        return self.defaults.model_copy(update={key: getattr(own, key) for key in own.model_fields_set} if own else {})

    def image(self, step: str) -> str:
        """Full image name of a step."""
        return f"{self.registry}/pixelis-{BY_NAME[step].image}:{self.tag}-{self.variant}"


def place(
    task: dsl.PipelineTask, step: str, placement: PlacementSection, *, light: bool = False, retries: bool = True
) -> dsl.PipelineTask:
    """Give a task its image, resources, limits and the run's id.

    Args:
        task: The task.
        step: The step it belongs to.
        placement: The section.
        light: It only reads a few lines of the step's work: it must not wait for, and then hold, what the step needs.
        retries: Try it again when it fails, as the section says.
    """
    from kfp import kubernetes

    resources = placement.resources(step)
    if resources.num_nodes > 1:
        light = True
        task.set_env_variable(train_job.VARIABLE, nodes(step, placement).canonical())
        resources = resources.model_copy(update={"timeout_s": resources.timeout_s + LAUNCHER_MARGIN_S})
    if light:
        resources = resources.model_copy(update=LIGHT)
    task.set_container_image(placement.image("configure" if light else step))  # neither needs torch
    task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu)
    task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    if resources.accelerator:
        task.set_accelerator_type(resources.accelerator).set_accelerator_limit(resources.accelerator_count)
    if retries and resources.retries:
        task.set_retry(
            num_retries=resources.retries,
            backoff_duration=f"{BACKOFF_S}s",
            backoff_max_duration=f"{retry_span_s(resources)}s",
        )
    if resources.shm:
        kubernetes.empty_dir_mount(
            task, volume_name="dshm", mount_path="/dev/shm", medium="Memory", size_limit=resources.shm
        )
    for path, claim in resources.volumes.items():
        kubernetes.mount_pvc(task, pvc_name=claim, mount_path=path)
    secrets = dict(resources.secrets)
    if placement.exchange and BY_NAME[step].keeps_work:
        secrets[EXCHANGE_SECRET] = EXCHANGE_KEYS
        task.set_env_variable("PIXELIS_WORK_URI", placement.exchange)
    for secret, keys in secrets.items():
        kubernetes.use_secret_as_env(
            task, secret_name=secret, secret_key_to_env={key: key for key in keys}, optional=True
        )
    for label, value in resources.node_selector.items():
        kubernetes.add_node_selector(task, label_key=label, label_value=value)
    if resources.accelerator:
        kubernetes.add_toleration(task, key=resources.accelerator, operator="Exists", effect="NoSchedule")
    if step == "ttrl":  # the step that deploys: which image the service runs
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


def retry_span_s(resources: Resources) -> int:
    """Seconds from a task's first start within which it may be tried again, every attempt taking its whole time.

    What kfp calls `backoff_max_duration` is no cap on the waiting: the engine (Argo's `backoff.maxDuration`) neither
    starts nor lets run any attempt past it. Its default of an hour would leave a long training without retries.
    """
    waiting_s = sum(BACKOFF_S * 2**number for number in range(resources.retries))
    return (resources.retries + 1) * (resources.timeout_s + PENDING_S) + waiting_s


def nodes(step: str, placement: PlacementSection) -> train_job.Nodes:
    """What every node of a step is made of, for the launcher in the step's own pod."""
    asked = placement.resources(step)
    return train_job.Nodes(
        image=placement.image(step),
        num_nodes=asked.num_nodes,
        processes=max(1, asked.accelerator_count),
        cpu=asked.cpu,
        memory=asked.memory,
        accelerator=asked.accelerator,
        accelerator_count=asked.accelerator_count,
        shm=asked.shm,
        node_selector=asked.node_selector,
        timeout_s=asked.timeout_s,
        exchange=placement.exchange,
    )
