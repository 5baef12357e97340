"""Brings the recurring runs of a Kubeflow to what a file says: makes, replaces, removes; asks for nothing twice.

The server has no update call, so a changed entry is deleted and made again. Each recurring run carries the digest of
its entry in its description; runs without such a digest belong to somebody else and are never touched.

Guarantees: after it ends well, exactly the file's entries exist, save those switched off whose pipeline nobody has
uploaded yet (said as "left out"); a second run changes nothing; no two runs of an entry
overlap (concurrency 1) and missed times are not made up for.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from components.shared.runtime.config import Section, canonical_json, describe
from components.shared.runtime.errors import ConfigError, InputError
from pipelines.cluster import PAGE, Server, check_parameters, digest_of, explained, pages, pipeline_name
from pipelines.config import profiles

EXPERIMENT = "pixelis-schedules"
MARK = "pixelis-schedule"
LATEST = "latest"
FIELDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NAMES = {4: MONTHS, 5: DAYS}


class Entry(Section):
    """One recurring run."""

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,62})$")
    """Its name; unique in the file."""
    cron: str
    """Second, minute, hour, day of month, month, day of week."""
    profile: str = "twin"
    """Which profile's pipeline."""
    version: str = LATEST
    """Name of a pipeline version, or `latest`: whichever is newest when the time comes."""
    parameters: dict[str, int | str | bool | float] = {}
    """Values of the run form; defaults elsewhere."""
    enabled: bool = True
    """Off keeps the entry but starts nothing."""
    service_account: str = ""
    """Account of its tasks; empty for the server's."""

    @field_validator("cron")
    @classmethod
    def _six_fields(cls, value: str) -> str:
        check_cron(value)
        return value


class ScheduleFile(Section):
    """The file."""

    schedules: tuple[Entry, ...]


@dataclass(frozen=True)
class Change:
    """What was done about one recurring run."""

    action: Literal["created", "replaced", "removed", "unchanged", "left out"]
    name: str


def check_cron(text: str) -> None:
    """Refuse what is not a cron expression of six fields.

    Raises:
        ValueError: says which field is wrong.
    """
    fields = text.split()
    if len(fields) != 6:
        raise ValueError(f"{text!r} has {len(fields)} fields; six are needed (the first is the second)")
    for number, (item, (low, high)) in enumerate(zip(fields, FIELDS, strict=True)):
        text_of = item.lower()
        for position, name in enumerate(NAMES.get(number, ())):
            text_of = text_of.replace(name, str(position + low))
        for part in text_of.split(","):
            found = re.fullmatch(r"(\*|\?|(\d+)(?:-(\d+))?)(?:/(\d+))?", part)
            numbers = [int(value) for value in (found.group(2), found.group(3)) if value] if found else []
            if not found or any(not low <= value <= high for value in numbers) or numbers != sorted(numbers):
                raise ValueError(f"{text!r}: field {number + 1} ({item}) is not within {low} to {high}")
            if found.group(4) and not int(found.group(4)):
                raise ValueError(f"{text!r}: field {number + 1} ({item}) has step 0")


def read_schedule(path: Path) -> tuple[Entry, ...]:
    """The file's entries.

    Raises:
        InputError: no such file.
        ConfigError: not YAML, an unknown key, a wrong value, a name given twice.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; nothing was changed.")
    try:
        value = yaml.safe_load(path.read_bytes())
        if not isinstance(value, dict):
            raise ConfigError(f"{path} holds no `schedules`; nothing was changed.", remedy="An empty list removes all.")
        entries = ScheduleFile.model_validate(value).schedules
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML ({error}); nothing was changed.") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error, '')}") from error
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: schedule {name!r} is given twice; nothing was changed.")
    for entry in entries:
        if entry.profile not in profiles():
            raise ConfigError(
                f"{path}: schedule {entry.name}: profile {entry.profile!r} does not exist; nothing was changed.",
                remedy=f"Choose one of {', '.join(profiles())}.",
            )
    return entries


def reconcile(server: Server, entries: tuple[Entry, ...]) -> list[Change]:
    """Make the server's recurring runs what the entries say.

    Raises:
        ConfigError: a pipeline or version that does not exist, or a wrong parameter; nothing was changed.
        EnvironmentFault: the server refuses; running again finishes what was begun.
    """
    for entry in entries:  # those that are switched off too: nobody looks at them until they are needed
        check_form(entry)
    absent = {entry.name for entry in entries if not entry.enabled and not has_pipeline(server, entry)}
    wanted = {entry.name: body(server, entry) for entry in entries if entry.name not in absent}
    experiment = server.experiment_id(EXPERIMENT)
    existing = [item for item in recurring_runs(server) if (item.description or "").startswith(MARK)]
    changes = [Change("left out", name) for name in sorted(absent)]
    kept: set[str] = set()
    replaced: set[str] = set()
    for item in existing:
        target = wanted.get(item.display_name)
        same = target is not None and digest_of(item.description) == digest_of(target.description)
        if same and item.display_name not in kept:
            kept.add(item.display_name)
            changes.append(Change("unchanged", item.display_name))
            continue
        with explained(server.host):
            server.client.delete_recurring_run(item.recurring_run_id)
        if target is None or item.display_name in kept:
            changes.append(Change("removed", item.display_name))
        else:
            replaced.add(item.display_name)
    for name, target in wanted.items():
        if name in kept:
            continue
        target.experiment_id = experiment
        with explained(server.host):
            server.client._recurring_run_api.recurring_run_service_create_recurring_run(target)
        changes.append(Change("replaced" if name in replaced else "created", name))
    return changes


def recurring_runs(server: Server) -> list[Any]:
    """All recurring runs the server shows."""
    with explained(server.host):
        return list(
            pages(
                lambda token: server.client.list_recurring_runs(
                    page_token=token, page_size=PAGE, namespace=server.namespace or None
                ),
                "recurring_runs",
            )
        )


def check_form(entry: Entry) -> None:
    """Refuse an entry whose parameters the run form does not have.

    Raises:
        ConfigError: names the entry and the parameter.
    """
    try:
        check_parameters(entry.parameters, entry.profile)
    except ConfigError as error:
        text = error.message.replace("nothing was started", "nothing was changed")
        raise ConfigError(f"schedule {entry.name}: {text}", remedy=error.remedy) from error


def has_pipeline(server: Server, entry: Entry) -> bool:
    """Whether the entry's pipeline has been uploaded; an entry that is switched off may wait for that."""
    return server.pipeline_id(pipeline_name(entry.profile), create=False) is not None


def body(server: Server, entry: Entry) -> Any:
    """The recurring run as the server takes it; its description carries the digest of the entry and its pipeline."""
    import kfp_server_api as api

    name = pipeline_name(entry.profile)
    pipeline_id = server.pipeline_id(name, create=False)
    versions = server.versions(pipeline_id) if pipeline_id else {}
    if not versions:
        raise ConfigError(
            f"schedule {entry.name}: the server has no pipeline {name}; nothing was changed.",
            remedy=f"Upload it first: pixelis submit --profile {entry.profile} --host {server.host}",
        )
    if entry.version != LATEST and entry.version not in versions:
        raise ConfigError(
            f"schedule {entry.name}: {name} has no version {entry.version!r}; nothing was changed.",
            remedy=f"Choose `latest` or one of {', '.join(sorted(versions)[-5:])}.",
        )
    pinned = versions[entry.version].pipeline_version_id if entry.version != LATEST else None
    identity = canonical_json([entry.model_dump(mode="json"), pipeline_id, pinned])
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return api.V2beta1RecurringRun(
        display_name=entry.name,
        description=f"{MARK} sha256:{digest}",
        mode=api.RecurringRunMode.ENABLE if entry.enabled else api.RecurringRunMode.DISABLE,
        pipeline_version_reference=api.V2beta1PipelineVersionReference(
            pipeline_id=pipeline_id, pipeline_version_id=pinned
        ),
        runtime_config=api.V2beta1RuntimeConfig(parameters=dict(entry.parameters)),
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=entry.cron)),
        max_concurrency="1",
        no_catchup=True,
        service_account=entry.service_account or None,
    )
