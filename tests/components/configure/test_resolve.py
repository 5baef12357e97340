"""`configure`: the run form over the profile, canonical sections, source digests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.configure import sources
from components.configure.resolve import read_overrides, resolve_sections
from components.configure.sources import source_digest
from components.shared.runtime.errors import ConfigError
from pipelines.config import compose, sections
from pipelines.steps import SECTIONS
from pipelines.training import form_defaults


def resolve(form: dict | None = None, overrides: dict | None = None) -> dict[str, dict]:
    config = compose("twin", (), {})
    texts = resolve_sections(sections(config), SECTIONS, form_defaults(config) | (form or {}), overrides or {})
    return {name: json.loads(text) for name, text in texts.items()}


def test_the_form_reaches_the_sections() -> None:
    found = resolve({"seed": 11, "deploy": False, "max_clips": 50, "num_people": 7, "sft_steps": 9})
    assert (found["recordings"]["twin"]["num_train_people"], found["sft"]["steps"]) == (7, 9)
    assert {section["seed"] for section in found.values()} == {11}
    assert found["ttrl"]["deploy"] is False
    assert found["clips"]["max_clips"] == 50


def test_overrides_of_the_form_must_agree_like_those_of_the_command_line() -> None:
    """A person who types into the Kubeflow UI must not train on other pictures than are served."""
    with pytest.raises(ConfigError, match=r"rft\.operations differs from .*nothing was run"):
        resolve(overrides={"rft": {"operations": {"zoom_size": 84}}})
    sharing = [name for name, section in resolve().items() if "operations" in section]
    assert len(sharing) > 2
    found = resolve(overrides={name: {"operations": {"zoom_size": 84}} for name in sharing})
    assert {found[name]["operations"]["zoom_size"] for name in sharing} == {84}


def test_the_forms_weights_are_the_hubs_or_the_tiny_ones_or_the_profiles() -> None:
    before = resolve()["base_model"]
    found = resolve({"base_weights": f"Qwen/Qwen2.5-VL-7B-Instruct@{'a' * 40}"})["base_model"]
    assert (found["kind"], found["hub"]["repo"]) == ("hub", "Qwen/Qwen2.5-VL-7B-Instruct")
    assert found["hub"]["revision"] == "a" * 40
    assert found["hub"]["max_pixels"] == before["hub"]["max_pixels"]
    assert resolve({"base_weights": ""})["base_model"] == resolve({"base_weights": "tiny"})["base_model"] == before
    for wrong in ("large", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/x@main"):
        with pytest.raises(ConfigError, match=r"run form\.base_weights"):
            resolve({"base_weights": wrong})


def test_new_recordings_under_the_same_folder_change_the_step_that_reads_them(tmp_path: Path) -> None:
    """A run that is scheduled weekly must not take last week's artifact for this week's."""
    (tmp_path / "a.mp4").write_bytes(b"one")
    form = {"source": "segments", "data_uri": str(tmp_path)}
    first = resolve(form)
    assert resolve(form) == first
    (tmp_path / "b.mp4").write_bytes(b"two")
    second = resolve(form)
    assert [name for name in first if first[name] != second[name]] == ["recordings"]
    assert len({first["recordings"]["listing"], second["recordings"]["listing"], ""}) == 3
    assert resolve(form | {"data_uri": str(tmp_path / "seen-by-the-step-only")})["recordings"]["listing"] == ""


def test_new_recordings_under_the_same_address_too(store: Any) -> None:
    form = {"source": "segments", "data_uri": "s3://mlpipeline/recordings"}
    store.put_object(Bucket="mlpipeline", Key="recordings/a.mp4", Body=b"one")
    first = resolve(form)["recordings"]
    assert resolve(form)["recordings"] == first
    store.put_object(Bucket="mlpipeline", Key="recordings/a.mp4", Body=b"two")
    assert resolve(form)["recordings"]["listing"] != first["listing"]


def test_overrides_are_merged_key_by_key() -> None:
    before, after = resolve(), resolve(overrides={"recordings": {"twin": {"fps": 20}}})
    assert after["recordings"]["twin"]["fps"] == 20
    assert after["recordings"]["twin"]["width"] == before["recordings"]["twin"]["width"]


def test_only_the_changed_section_changes() -> None:
    before, after = resolve(), resolve(overrides={"sft": {"deterministic": True}})
    assert [name for name in before if before[name] != after[name]] == ["sft"]


def test_a_wrong_form_value_ends_the_run_by_name() -> None:
    with pytest.raises(ConfigError, match=r"run form\.seed = -4"):
        resolve({"seed": -4})


def test_a_wrong_override_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"ttrl\.nonsense"):
        resolve(overrides={"ttrl": {"nonsense": 1}})
    with pytest.raises(ConfigError, match="no such section"):
        resolve(overrides={"nonsense": {"a": 1}})


def test_sections_are_canonical_json() -> None:
    config = compose("twin", (), {})
    first = resolve_sections(sections(config), SECTIONS, form_defaults(config), {})
    assert first == resolve_sections(sections(config), SECTIONS, form_defaults(config), {})
    assert all(" " not in text.split('"')[0] and text.startswith("{") for text in first.values())


def test_steps_have_digests_of_their_own() -> None:
    digests = {source_digest(reference.partition(":")[0].rpartition(".")[0]) for reference in SECTIONS.values()}
    assert len(digests) == len(SECTIONS)


def test_a_digest_follows_imports_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "step/__init__.py": "",
        "step/verb.py": "def go():\n    from components.shared.near import thing\n",
        "shared/__init__.py": "",
        "shared/near.py": "from components.shared import deep\nthing = 1\n",
        "shared/deep.py": "",
        "shared/far.py": "",
    }.items():
        path = tmp_path / "components" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sources, "ROOT", tmp_path)

    def digest() -> str:
        sources.imported.cache_clear()
        return source_digest("components.step")

    before = digest()
    (tmp_path / "components/shared/far.py").write_text("x = 1\n")
    assert digest() == before
    (tmp_path / "components/shared/deep.py").write_text("x = 1\n")
    assert digest() != before


@pytest.mark.parametrize("text", ["{", "[]", '{"sft": 3}', "sft.rank=8"])
def test_overrides_that_are_no_sections_are_explained(text: str) -> None:
    with pytest.raises(ConfigError, match=r"run form\.overrides = .* nothing was run"):
        read_overrides(text)


def test_overrides_may_be_empty_and_a_wrong_key_of_the_run_is_refused() -> None:
    assert read_overrides("") == read_overrides("{}") == {}
    with pytest.raises(ConfigError, match=r"overrides\.run\.sed: no such key"):
        resolve(overrides={"run": {"sed": 3}})
