"""Validates the run form, lays it over the profile's configuration and hands each step its section.

A section also carries the digest of its step's source, so that the cache of a step is invalidated by a change of its
section or its code, and by nothing else.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from pydantic import ValidationError

from components.configure.agreement import check_agreement
from components.configure.config import DESTINATIONS, RunForm, weights_keys
from components.configure.sources import source_digest
from components.shared.runtime.config import StepSection, canonical_json, describe
from components.shared.runtime.errors import ConfigError
from components.shared.runtime.stores import listing_digest

EXAMPLE = 'For example: {"sft": {"rank": 8}}; {} for none.'


def resolve_sections(
    profile: dict[str, dict[str, Any]],
    classes: dict[str, str],
    form: dict[str, Any],
    overrides: dict[str, dict[str, Any]],
) -> dict[str, str]:
    """Canonical JSON of every step's section.

    Args:
        profile: The profile's sections, `run` among them.
        classes: `module:Class` of each section.
        form: Values of the run form.
        overrides: Keys laid over everything, by section.

    Returns:
        Section name -> canonical JSON, `code` filled.

    Raises:
        ConfigError: a wrong value in the form or an override, or sections that disagree on what they must share; names
            the key, the value and what is allowed.
    """
    merged = {name: dict(section) for name, section in profile.items()}
    try:
        values = RunForm.model_validate(form)
    except ValidationError as error:
        raise ConfigError(describe(error, "run form"), remedy="Correct the value in the run form.") from error
    for key, destination in DESTINATIONS.items():
        target, *path = destination.split(".")
        lay_over(merged[target], nested(path, getattr(values, key)))
    if values.base_weights:
        lay_over(merged["base_model"], weights_keys(values.base_weights))
    for name, over in overrides.items():
        if name not in merged:
            raise ConfigError(
                f"overrides.{name}: no such section; nothing was run.", remedy=f"Choose one of {sorted(merged)}."
            )
        lay_over(merged[name], over)
    if unknown := sorted(merged["run"].keys() - profile["run"].keys()):
        raise ConfigError(
            f"overrides.run.{unknown[0]}: no such key; nothing was run.",
            remedy=f"Choose one of {sorted(profile['run'])}.",
        )
    note_listing(merged["recordings"])
    run_defaults = profile["run"]
    result: dict[str, StepSection] = {}
    for name, reference in classes.items():
        section = merged[name]
        for key in ("seed", "deterministic"):
            if section.get(key) == run_defaults[key] and key not in overrides.get(name, {}):
                section[key] = merged["run"][key]
        result[name] = validated(name, reference, section)
    check_agreement(result)
    return {name: section.canonical() for name, section in result.items()}


def read_overrides(text: str) -> dict[str, dict[str, Any]]:
    """The run form's `overrides`: keys by section.

    Raises:
        ConfigError: not a JSON object of objects.
    """
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"run form.overrides = {text[:200]!r} is not JSON ({error}); nothing was run.", remedy=EXAMPLE
        ) from error
    if not isinstance(value, dict) or not all(isinstance(section, dict) for section in value.values()):
        raise ConfigError(
            f"run form.overrides = {text[:200]!r} is not an object of sections; nothing was run.", remedy=EXAMPLE
        )
    return value


def note_listing(recordings: dict[str, Any]) -> None:
    """Say in the section what lies where the recordings come from: the step must run again when that changes."""
    if recordings.get("source") != "twin" and recordings.get("path"):
        recordings["listing"] = listing_digest(recordings["path"])


def nested(path: list[str], value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} from ["a", "b"]."""
    for name in reversed(path):
        value = {name: value}
    return value  # type: ignore[no-any-return]


def lay_over(base: dict[str, Any], over: dict[str, Any]) -> None:
    """Merge `over` into `base`, dictionaries key by key."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            base[key] = dict(base[key])
            lay_over(base[key], value)
        else:
            base[key] = value


def validated(name: str, reference: str, section: dict[str, Any]) -> StepSection:
    """The section as an instance of its class, with the digest of its step's source."""
    module, _, attribute = reference.partition(":")
    section_class: type[StepSection] = getattr(importlib.import_module(module), attribute)
    section = section | {"code": source_digest(module.rpartition(".")[0])}
    try:
        parsed = json.loads(canonical_json(section))
        return section_class.model_validate(parsed)
    except ValidationError as error:
        raise ConfigError(
            describe(error, name), remedy="See pipeline_config.yaml for every key and its meaning."
        ) from error
