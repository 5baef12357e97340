"""The configuration: composition order, and refusal of everything that is not allowed, by name."""

from __future__ import annotations

import pytest

from components.shared.runtime.errors import ConfigError
from pipelines.config import compose, from_environment, from_text, profiles, sections
from pipelines.steps import SECTIONS


@pytest.mark.parametrize("profile", ["twin", "gpu-3b", "gpu-7b"])
def test_every_profile_composes(profile: str) -> None:
    config = compose(profile, (), {})
    assert config.profile == profile
    assert set(sections(config)) == {"run", *SECTIONS}


def test_profiles_are_those_documented() -> None:
    assert profiles() == ["gpu-3b", "gpu-7b", "twin"]


def test_set_wins_over_environment_and_environment_over_profile() -> None:
    environment = {"PIXELIS_SFT__RANK": "8", "PIXELIS_RUN__SEED": "5"}
    config = compose("twin", ["run.seed=7"], environment)
    assert config.run.seed == 7
    assert compose("twin", (), environment).run.seed == 5


def test_the_runs_seed_reaches_every_step_unless_it_has_its_own() -> None:
    config = compose("twin", ["run.seed=7", "sft.seed=3"], {})
    assert config.rft.seed == 7
    assert config.sft.seed == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sft.no_such_key=1", "sft.no_such_key = 1: no such key"),
        ("no_such_section.key=1", "no_such_section"),
        ("run.seed=abc", "run.seed = 'abc': input should be a valid integer"),
        ("run.seed=-1", "run.seed = -1: input should be greater than or equal to 0"),
        ("recordings.source=cinema", "recordings.source = 'cinema': input should be 'twin', 'openpack' or 'segments'"),
        ("ttrl.port=70000", "ttrl.port = 70000: input should be less than or equal to 65535"),
    ],
)
def test_a_wrong_override_is_refused_with_key_value_and_what_is_allowed(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("twin", [override], {})
    assert expected in str(caught.value)
    assert "nothing was run" in str(caught.value)


def test_a_wrong_environment_variable_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"ttrl\.no_such"):
        compose("twin", (), {"PIXELIS_TTRL__NO_SUCH": "1"})


@pytest.mark.parametrize("item", ["seed=3", "run.seed", "=3", "run..seed=3", "run.seed=[1"])
def test_malformed_set_items_are_refused(item: str) -> None:
    with pytest.raises(ConfigError, match="nothing was run"):
        from_text([item])


def test_an_unknown_profile_names_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="gpu-3b"):
        compose("huge", (), {})


def test_environment_values_are_yaml_and_other_variables_are_ignored() -> None:
    found = from_environment({"PIXELIS_RUN__DETERMINISTIC": "true", "PIXELIS_RUN_ID": "x", "HOME": "/"})
    assert found == {"run": {"deterministic": True}}


def test_shared_settings_must_agree() -> None:
    with pytest.raises(ConfigError, match="operations"):
        compose("twin", ["rft.operations.zoom_size=84"], {})
