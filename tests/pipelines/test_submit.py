"""Submitting: one version a content, named by the commit; the run's parameters; the table; every refusal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from components.shared.runtime.errors import ConfigError, EnvironmentFault, StepError
from pipelines.cli import app
from pipelines.cluster import Server
from pipelines.submit import follow, step_records, submit

SHA = "0123456789abcdef0123"


@pytest.fixture(autouse=True)
def commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELIS_GIT_SHA", SHA)


def task(name: str, state: str, second: int = 0, **more: Any) -> dict[str, Any]:
    value = {"task_id": f"{second:03d}", "display_name": name, "state": state}
    value["start_time"] = f"2026-01-01T00:00:{second:02d}+00:00"
    if state in ("SUCCEEDED", "FAILED"):
        value["end_time"] = f"2026-01-01T00:00:{second + 5:02d}+00:00"
    return value | more


def state(name: str, *tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"state": name, "run_details": {"task_details": list(tasks)}} | more


def test_a_run_is_started_from_an_uploaded_version(kfp_server: Any) -> None:
    made = submit(Server(kfp_server.url), "twin", (), {"seed": 3, "deploy": False})
    [run] = kfp_server.runs.values()
    [version] = kfp_server.versions.values()
    assert version["display_name"] == made.version.name == SHA[:12]
    assert run["runtime_config"]["parameters"] == {"seed": 3, "deploy": False}
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert made.url == f"{kfp_server.url}/#/runs/details/{run['run_id']}"
    images = {
        e["container"]["image"]
        for e in version["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values()
    }
    assert all(image.endswith(f":{SHA[:12]}-cpu") for image in images)


def test_the_same_content_is_uploaded_once_and_other_content_gets_a_name_of_its_own(kfp_server: Any) -> None:
    server = Server(kfp_server.url)
    first = submit(server, "twin", (), {})
    again = submit(server, "twin", (), {})
    other = submit(server, "twin", ("sft.seed=4",), {})
    other_again = submit(server, "twin", ("sft.seed=4",), {})
    assert (first.version.is_new, again.version.is_new) == (True, False)
    assert again.version.version_id == first.version.version_id
    assert other.version.name.startswith(f"{SHA[:12]}-")
    assert other_again.version.version_id == other.version.version_id
    assert len(kfp_server.versions) == 2
    assert len(kfp_server.pipelines) == len(kfp_server.experiments) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [({"speed": 1}, "no such field"), ({"seed": "three"}, "int expected"), ({"deploy": 1}, "bool expected")],
)
def test_a_wrong_parameter_is_refused_before_anything_is_sent(
    kfp_server: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        submit(Server(kfp_server.url), "twin", (), values)
    assert kfp_server.writes == []


def test_a_run_is_followed_to_its_end(kfp_server: Any) -> None:
    server = Server(kfp_server.url)
    run = submit(server, "twin", (), {}).run_id
    done = [task("configure", "SUCCEEDED"), task("exit-handler-1", "RUNNING"), task("recordings", "SUCCEEDED", 6)]
    fan = [task("clip-groups", "SUCCEEDED", 12), task("clips", "SUCCEEDED", 18), task("clips", "SUCCEEDED", 19)]
    kfp_server.script = [
        state("PENDING"),
        state("RUNNING", *done[:2], task("recordings", "RUNNING", 6), task("base-model", "PENDING", 7)),
        state("SUCCEEDED", *done, *fan, task("clips-join", "SUCCEEDED", 25), task("base-model", "SUCCEEDED", 31)),
    ]
    out = io.StringIO()
    found = follow(server, run, Console(file=out, width=100), poll_s=0.01)
    assert found.state == "SUCCEEDED"
    text = out.getvalue()
    for name in ("configure", "recordings", "clips.groups", "clips.0", "clips.1", "base_model"):
        assert name in text
    assert "exit" not in text
    assert list(step_records(found)) == [
        "configure",
        "recordings",
        "clips.groups",
        "clips.0",
        "clips.1",
        "clips",
        "base_model",
    ]


def test_a_failed_run_names_the_task_and_the_cause(kfp_server: Any) -> None:
    server = Server(kfp_server.url)
    run = submit(server, "twin", (), {}).run_id
    kfp_server.script = [state("FAILED", task("sft", "FAILED", error={"code": 2, "message": "out of memory"}))]
    with pytest.raises(StepError, match=r"FAILED: sft \(out of memory\)"):
        follow(server, run, Console(file=io.StringIO()), poll_s=0.01)


def test_a_short_silence_is_waited_for_and_a_long_one_says_that_the_run_goes_on(
    kfp_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(kfp_server.url)
    run = submit(server, "twin", (), {}).run_id
    kfp_server.away = 503
    looks = []
    monkeypatch.setattr("pipelines.submit.time.sleep", lambda _: looks.append(1) or setattr(kfp_server, "away", 0))
    kfp_server.script = [state("SUCCEEDED", task("configure", "SUCCEEDED"))]
    assert follow(server, run, Console(file=io.StringIO()), poll_s=0.01).state == "SUCCEEDED"
    assert looks
    monkeypatch.undo()
    kfp_server.away = 503
    with pytest.raises(
        EnvironmentFault, match=rf"goes on without anybody looking.*--host {kfp_server.url} --follow {run}"
    ):
        follow(server, run, Console(file=io.StringIO()), poll_s=0.01, patience_s=0.05)


@pytest.mark.timeout(30)
def test_a_run_that_does_not_exist_and_a_token_that_ended_are_not_waited_for(kfp_server: Any) -> None:
    server = Server(kfp_server.url)
    with pytest.raises(EnvironmentFault, match="404: no such run"):
        follow(server, "nope", Console(file=io.StringIO()), poll_s=0.01)
    run = submit(server, "twin", (), {}).run_id
    kfp_server.token = "another"
    with pytest.raises(EnvironmentFault, match=r"401.*goes on.*PIXELIS_KFP_TOKEN.*--follow"):
        follow(server, run, Console(file=io.StringIO()), poll_s=0.01)


def test_a_run_is_followed_again_without_starting_another(kfp_server: Any) -> None:
    run = submit(Server(kfp_server.url), "twin", (), {}).run_id
    kfp_server.script = [state("SUCCEEDED", task("configure", "SUCCEEDED"))]
    arguments = ["submit", "--host", kfp_server.url, "--follow", run, "--poll-s", "0.05"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert (done.exit_code, len(kfp_server.runs)) == (0, 1)
    assert "configure" in done.output


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(EnvironmentFault, match=r"no Kubeflow Pipelines server answers at http://127\.0\.0\.1:9"):
        Server("http://127.0.0.1:9")


PAGE = (200, "text/html", b"<html>Log in</html>", {})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (PAGE, "answers with text/html .*PIXELIS_KFP_TOKEN"),
        ((200, "application/json", b"[]", {}), "answers with application/json"),
        ((302, "text/html", b"", {"location": "/dex/auth"}), "sends to /dex/auth .*PIXELIS_KFP_TOKEN"),
        ((500, "text/plain", b"upstream connect error", {}), "answers 500: upstream connect error"),
    ],
    ids=["login page", "another program", "login elsewhere", "gateway"],
)
def test_what_is_no_healthy_pipelines_server_is_refused_before_anything_is_sent(
    kfp_server: Any, answer: tuple[int, str, bytes, dict[str, str]], message: str
) -> None:
    kfp_server.instead = answer
    with pytest.raises(EnvironmentFault, match=message):
        Server(kfp_server.url)
    assert kfp_server.writes == []


def test_a_login_page_in_place_of_a_later_answer_starts_no_run(kfp_server: Any) -> None:
    """Its objects have no fields: the command said `run None` and ended well."""
    server = Server(kfp_server.url)
    kfp_server.instead = PAGE
    with pytest.raises(EnvironmentFault, match="no id: that is no answer of the API"):
        submit(server, "twin", (), {})
    with pytest.raises(EnvironmentFault, match="no id"):
        follow(server, "run", Console(file=io.StringIO()), poll_s=0.01, patience_s=0.0)


def test_a_kubeflow_of_several_users_wants_a_namespace(kfp_server: Any) -> None:
    kfp_server.multi_user = True
    with pytest.raises(ConfigError, match="--namespace"):
        Server(kfp_server.url)
    with pytest.raises(ConfigError, match="'Team A' is no name of a namespace"):
        Server(kfp_server.url, namespace="Team A")
    assert Server(kfp_server.url, namespace="team-a").namespace == "team-a"


def command(*arguments: str) -> Any:
    """Run `pixelis submit`; an expected error is raised."""
    return CliRunner().invoke(app, ["submit", *arguments], catch_exceptions=False)


def test_texts_of_the_form_are_taken_as_they_stand(kfp_server: Any) -> None:
    """YAML would make a dictionary of the overrides and a number of a folder's name."""
    overrides = '{"sft":{"rank":8}}'
    done = command(
        "--host", kfp_server.url, "--no-wait", "--param", f"overrides={overrides}", "--param", "data_uri=2024"
    )
    assert done.exit_code == 0
    [run] = kfp_server.runs.values()
    assert run["runtime_config"]["parameters"] == {"overrides": overrides, "data_uri": "2024"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--param", "seed=["), "parameter seed = '\\['.*not YAML"),
        (("--param", "seed"), "not of the form NAME=VALUE"),
        (("--param", "speed=1"), "no such field"),
        (("--follow", "run", "--param", "seed=1"), "--follow starts nothing"),
    ],
)
def test_a_wrong_command_is_refused_by_name(kfp_server: Any, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command("--host", kfp_server.url, *arguments)
    assert kfp_server.writes == []


def test_a_person_who_stops_looking_is_told_that_the_run_goes_on(
    kfp_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enough(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.submit.follow", enough)
    done = command("--host", kfp_server.url)
    [run] = kfp_server.runs
    assert done.exit_code == 130
    assert f"Run {run} goes on" in done.output and f"--follow {run}" in done.output


def test_a_server_that_wants_a_token_gets_it_or_is_named(kfp_server: Any) -> None:
    kfp_server.token = "abc"
    with pytest.raises(EnvironmentFault, match="PIXELIS_KFP_TOKEN"):
        Server(kfp_server.url)
    assert submit(Server(kfp_server.url, token="abc"), "twin", (), {}).version.is_new


def test_the_double_refuses_what_the_api_does_not_have(kfp_server: Any) -> None:
    """The test's own instrument: a field the API does not know is refused."""
    import kfp_server_api

    server = Server(kfp_server.url)
    server.experiment_id("x")
    body = {"display_name": "x", "experimentId": "y"}
    with pytest.raises(kfp_server_api.ApiException, match="experimentId: no such field"):
        server.client._run_api.run_service_create_run(body)


def test_the_command_prints_links_and_the_table(kfp_server: Any) -> None:
    kfp_server.script = [state("SUCCEEDED", task("configure", "SUCCEEDED"))]
    arguments = [
        "submit",
        "--host",
        kfp_server.url,
        "--param",
        "seed=4",
        "--mlflow",
        "http://mlflow:5000",
        "--poll-s",
        "0.05",
    ]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    [run] = kfp_server.runs.values()
    assert run["runtime_config"]["parameters"] == {"seed": 4}
    assert f"/#/runs/details/{run['run_id']}" in done.output
    assert "http://mlflow:5000" in done.output
    assert "configure" in done.output
