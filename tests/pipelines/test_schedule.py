"""The schedule: made, left alone, replaced, removed; foreign runs stay; wrong entries are refused first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.shared.runtime.errors import ConfigError, InputError
from pipelines.cli import app
from pipelines.cluster import Server
from pipelines.schedule import Entry, check_cron, read_schedule, reconcile
from pipelines.submit import submit

CRON = "0 0 3 * * *"


@pytest.fixture
def server(kfp_server: Any, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that has the twin's pipeline with one version."""
    monkeypatch.setenv("PIXELIS_GIT_SHA", "a" * 40)
    connected = Server(kfp_server.url)
    submit(connected, "twin", (), {})
    kfp_server.writes.clear()
    return connected


def actions(changes: list[Any]) -> dict[str, str]:
    return {change.name: change.action for change in changes}


def test_entries_are_made_with_one_at_a_time_and_no_catch_up(kfp_server: Any, server: Server) -> None:
    entry = Entry(name="nightly", cron=CRON, parameters={"seed": 7, "deploy": False})
    assert actions(reconcile(server, (entry,))) == {"nightly": "created"}
    [found] = kfp_server.recurring.values()
    assert (found["max_concurrency"], found["no_catchup"], found["mode"]) == ("1", True, "ENABLE")
    assert found["trigger"] == {"cron_schedule": {"cron": CRON}}
    assert found["runtime_config"]["parameters"] == {"seed": 7, "deploy": False}
    assert set(found["pipeline_version_reference"]) == {"pipeline_id"}, "no version: always the latest"


def test_a_second_time_changes_nothing(kfp_server: Any, server: Server) -> None:
    entries = tuple(Entry(name=f"n{number}", cron=CRON) for number in range(5))
    reconcile(server, entries)
    before = dict(kfp_server.recurring)
    kfp_server.writes.clear()
    assert set(actions(reconcile(server, entries)).values()) == {"unchanged"}
    assert kfp_server.recurring == before
    assert kfp_server.writes == []


@pytest.mark.parametrize(
    "change", [{"cron": "0 0 4 * * *"}, {"parameters": {"seed": 1}}, {"enabled": False}, {"version": "a" * 12}]
)
def test_a_changed_entry_replaces_its_run_and_only_its(kfp_server: Any, server: Server, change: dict[str, Any]) -> None:
    one, two = Entry(name="one", cron=CRON), Entry(name="two", cron=CRON)
    reconcile(server, (one, two))
    kept = next(v for v in kfp_server.recurring.values() if v["display_name"] == "two")
    assert actions(reconcile(server, (one.model_copy(update=change), two))) == {"one": "replaced", "two": "unchanged"}
    assert len(kfp_server.recurring) == 2
    assert kept in kfp_server.recurring.values()


def test_a_pinned_version_is_asked_for_by_its_id(kfp_server: Any, server: Server) -> None:
    reconcile(server, (Entry(name="pinned", cron=CRON, version="a" * 12),))
    [found] = kfp_server.recurring.values()
    assert found["pipeline_version_reference"]["pipeline_version_id"] in kfp_server.versions


def test_what_the_file_does_not_name_is_removed_and_foreign_runs_stay(kfp_server: Any, server: Server) -> None:
    reconcile(server, (Entry(name="one", cron=CRON), Entry(name="two", cron=CRON)))
    foreign = next(iter(kfp_server.recurring.values())) | {"description": "made by hand", "recurring_run_id": "f"}
    kfp_server.recurring["f"] = foreign
    assert actions(reconcile(server, (Entry(name="two", cron=CRON),))) == {"one": "removed", "two": "unchanged"}
    assert {item["description"] for item in kfp_server.recurring.values()} >= {"made by hand"}
    assert len(kfp_server.recurring) == 2


def test_a_double_entry_left_by_an_interrupted_run_is_removed(kfp_server: Any, server: Server) -> None:
    entry = Entry(name="one", cron=CRON)
    reconcile(server, (entry,))
    kfp_server.recurring["copy"] = next(iter(kfp_server.recurring.values())) | {"recurring_run_id": "copy"}
    reconcile(server, (entry,))
    assert len(kfp_server.recurring) == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Entry(name="one", cron=CRON, profile="gpu-7b"), "no pipeline pixelis-training-gpu-7b"),
        (Entry(name="one", cron=CRON, version="v9"), "no version 'v9'"),
        (Entry(name="one", cron=CRON, parameters={"speed": 1}), "schedule one: .*no such field"),
        (Entry(name="off", cron=CRON, profile="gpu-7b", parameters={"speed": 1}, enabled=False), "schedule off: "),
    ],
)
def test_a_wrong_entry_is_refused_before_anything_changes(
    kfp_server: Any, server: Server, entry: Entry, message: str
) -> None:
    reconcile(server, (Entry(name="zero", cron=CRON),))
    kfp_server.writes.clear()
    with pytest.raises(ConfigError, match=message):
        reconcile(server, (entry,))
    assert kfp_server.writes == []


def test_an_entry_that_is_off_may_wait_for_its_pipeline(kfp_server: Any, server: Server) -> None:
    """The project's own file on a server that has seen only the twin: step 10 of the documentation."""
    entries = read_schedule(Path(__file__).parents[2] / "manifests" / "schedule.yaml")
    assert actions(reconcile(server, entries)) == {"retrain-weekly": "left out", "twin-nightly": "created"}
    assert actions(reconcile(server, entries)) == {"retrain-weekly": "left out", "twin-nightly": "unchanged"}
    submit(server, "gpu-3b", (), {})
    assert actions(reconcile(server, entries)) == {"retrain-weekly": "created", "twin-nightly": "unchanged"}
    modes = {item["display_name"]: item["mode"] for item in kfp_server.recurring.values()}
    assert modes == {"twin-nightly": "ENABLE", "retrain-weekly": "DISABLE"}


@pytest.mark.parametrize("text", [CRON, "*/10 * * * * *", "0 0 9 ? * 2-6", "0 0 3 1,15 jan-mar *", "0 0 3 * * mon"])
def test_cron_expressions_of_six_fields_are_taken(text: str) -> None:
    check_cron(text)


@pytest.mark.parametrize(
    "text",
    ["0 3 * * *", "60 0 3 * * *", "0 0 24 * * *", "0 0 3 * * 7", "0 0 3 5-2 * *", "a b c d e f", "*/0 * * * * *"],
)
def test_other_cron_expressions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"field|fields"):
        check_cron(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedules: [{name: a, cron: '0 3 * * *'}]", "six are needed"),
        ("schedules: [{name: a, cron: '0 0 3 * * *', often: 1}]", "often = 1: no such key"),
        ("schedules: [{name: a, cron: '0 0 3 * * *'}, {name: a, cron: '0 0 4 * * *'}]", "given twice"),
        ("schedules: [", "not YAML"),
        ("", "holds no `schedules`"),
        ("[a, b]", "holds no `schedules`"),
        (
            "schedules: [{name: a, cron: '0 0 3 * * *', profile: gpu-3, enabled: false}]",
            "profile 'gpu-3' does not exist",
        ),
        (b"\xff\xfe\x00", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "s.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        read_schedule(tmp_path / "s.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml"):
        read_schedule(tmp_path / "gone.yaml")


def test_the_projects_own_schedule_is_valid() -> None:
    entries = read_schedule(Path(__file__).parents[2] / "manifests" / "schedule.yaml")
    assert {entry.profile for entry in entries} == {"twin", "gpu-3b"}


def test_the_command(kfp_server: Any, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"schedules: [{{name: nightly, cron: '{CRON}'}}]")
    for expected in ("created: nightly", "unchanged: nightly"):
        done = CliRunner().invoke(app, ["schedule", "--host", kfp_server.url, "-f", str(file)], catch_exceptions=False)
        assert done.output.strip() == expected
