"""Composes the one configuration: pipeline_config.yaml, then a profile over it, then the environment, then `--set`.

Nothing runs before the whole has been validated; an error names the key, the value and what is allowed.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, create_model

from components.configure.agreement import check_agreement
from components.shared.runtime.config import Section, describe
from components.shared.runtime.errors import ConfigError
from pipelines.placement import PlacementSection
from pipelines.steps import SECTIONS

PREFIX = "PIXELIS_"
FILE = "pipeline_config.yaml"


class RunSection(Section):
    """What holds for the whole run."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of every step that does not set its own."""
    deterministic: bool = False
    """Refuse algorithms whose result depends on scheduling (slower)."""


@cache
def config_class() -> type[Section]:
    """The whole configuration's class: one field a section, put together from the steps' own classes."""
    fields: dict[str, Any] = {"profile": (str, ...), "run": (RunSection, RunSection())}
    for name, reference in SECTIONS.items():
        module, _, attribute = reference.partition(":")
        section = getattr(importlib.import_module(module), attribute)
        fields[name] = (section, section())
    fields["placement"] = (PlacementSection, PlacementSection())
    return create_model("PipelineConfig", __base__=Section, **fields)


def config_file() -> Path:
    """PIXELIS_CONFIG, else pipeline_config.yaml here, else the one beside the installed code."""
    named = os.environ.get("PIXELIS_CONFIG")
    candidates = [Path(named)] if named else [Path(FILE), Path(__file__).parent.parent / FILE]
    for path in candidates:
        if path.is_file():
            return path
    raise ConfigError(
        f"no configuration: {', '.join(str(p) for p in candidates)} does not exist.",
        remedy="Run inside the project, or set PIXELIS_CONFIG.",
    )


def profiles() -> list[str]:
    """Names of the profiles in the configuration file."""
    return sorted(read_file().get("profiles", {}))


def read_file() -> dict[str, Any]:
    """The configuration file as a dictionary."""
    path = config_file()
    try:
        value = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML ({error}); nothing was run.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no sections; nothing was run.")
    return value


def compose(
    profile: str = "twin",
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Any:
    """The validated configuration (an instance of `config_class()`).

    Args:
        profile: A name under `profiles` in the file.
        overrides: `section.key=value`, the value in YAML; later ones win.
        environment: Where `PIXELIS_SECTION__KEY` is looked up; os.environ by default.

    Raises:
        ConfigError: unknown profile or key, wrong type, value out of bounds; nothing was run.
    """
    value = read_file()
    known = value.pop("profiles", {})
    if profile not in known:
        raise ConfigError(
            f"profile {profile!r} does not exist; nothing was run.", remedy=f"Choose one of {sorted(known)}."
        )
    value = merge(value, known[profile] or {})
    for source in (from_environment(os.environ if environment is None else environment), from_text(overrides)):
        value = merge(value, source)
    value["profile"] = profile
    name = "run"
    try:
        RunSection.model_validate(value.get("run") or {})  # first: a wrong seed is not said once a step
        share_run(value)
        name = ""
        config = config_class().model_validate(value)
    except ValidationError as error:
        raise ConfigError(
            describe(error, name),
            remedy=f"Every key with its meaning stands in {FILE} and in the steps' config.py.",
        ) from error
    check_agreement({name: getattr(config, name) for name in SECTIONS})
    return with_tag(config)


def share_run(value: dict[str, Any]) -> None:
    """Give the run's seed and determinism to every step that does not set its own."""
    run = value.get("run") or {}
    for name in SECTIONS:
        section = value.setdefault(name, {}) or {}
        value[name] = {key: run[key] for key in ("seed", "deterministic") if key in run} | section


def with_tag(config: Any) -> Any:
    """Fill the image tag from git where it is not given."""
    if config.placement.tag:
        return config
    placement = config.placement.model_copy(update={"tag": git_sha()[:12]})
    return config.model_copy(update={"placement": placement})


def git_sha() -> str:
    """The commit of the source, `unknown` outside a checkout."""
    root = Path(__file__).parent.parent
    if os.environ.get("PIXELIS_GIT_SHA"):
        return os.environ["PIXELIS_GIT_SHA"]
    try:
        done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, dictionaries merged key by key."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


def from_text(overrides: Iterable[str]) -> dict[str, Any]:
    """`section.key=value` items as nested dictionaries."""
    result: dict[str, Any] = {}
    for item in overrides:
        key, sign, text = item.partition("=")
        if not sign or not re.fullmatch(r"[a-z_0-9]+(\.[a-zA-Z_0-9-]+)+", key.strip()):
            raise ConfigError(
                f"--set {item!r} is not of the form section.key=value; nothing was run.",
                remedy="For example: --set recordings.source=segments",
            )
        result = merge(result, nest(key.strip().split("."), parse(text, key)))
    return result


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """`PIXELIS_SECTION__KEY=value` variables as nested dictionaries."""
    result: dict[str, Any] = {}
    for name in sorted(environment):
        if name.startswith(PREFIX) and "__" in name:
            keys = [part.lower() for part in name.removeprefix(PREFIX).split("__")]
            result = merge(result, nest(keys, parse(environment[name], name)))
    return result


def nest(keys: list[str], value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} from ["a", "b"]."""
    for key in reversed(keys):
        value = {key: value}
    return value


def parse(text: str, key: str) -> Any:
    """A value in YAML; empty text stays text."""
    try:
        return yaml.safe_load(text) if text.strip() else text
    except yaml.YAMLError as error:
        raise ConfigError(f"{key} = {text!r} is not YAML ({error}); nothing was run.") from error


def sections(config: Any) -> dict[str, dict[str, Any]]:
    """The run's and every step's section as plain JSON values: what `configure` takes."""
    return {name: getattr(config, name).model_dump(mode="json") for name in ("run", *SECTIONS)}
