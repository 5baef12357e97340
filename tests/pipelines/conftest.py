"""A local server that speaks the KFP v2beta1 REST API, for the official client: strict about every request.

What it refuses: unknown paths, unknown or wrongly typed fields (against the types kfp_server_api is generated with),
unknown query parameters, packages that are not a pipeline, references to what does not exist, parameters a pipeline
does not have, cron expressions without six fields, names given twice. It runs nothing: a test sets states.
"""

from __future__ import annotations

import datetime
import email.parser
import email.policy
import json
import os
import re
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.cluster import compile_to as real_compile_to

LISTING = {"page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"}
SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "object": (object,),
}


COMPILED: dict[tuple[str, tuple[str, ...], str], bytes] = {}


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check(value: Any, kind: str, where: str) -> None:
    """Compare a JSON value with a type of the generated client."""
    if value is None:
        return
    if kind in SCALARS:
        if not isinstance(value, SCALARS[kind]) or (kind in ("int", "float") and isinstance(value, bool)):
            raise Refused(400, f"{where}: {kind} expected, got {value!r}")
    elif kind == "datetime":
        datetime.datetime.fromisoformat(value)
    elif kind.startswith("list["):
        for number, item in enumerate(value):
            check(item, kind[5:-1], f"{where}[{number}]")
    elif kind.startswith("dict("):
        for key, item in value.items():
            check(item, kind[5:-1].split(", ")[1], f"{where}.{key}")
    else:
        model = getattr(kfp_server_api, kind)
        if hasattr(model, "allowable_values") and not model.openapi_types:
            if value not in model.allowable_values:
                raise Refused(400, f"{where}: {value!r} is none of {model.allowable_values}")
            return
        fields = {model.attribute_map[name]: of for name, of in model.openapi_types.items()}
        for key, item in value.items():
            if key not in fields:
                raise Refused(400, f"{where}.{key}: no such field")
            check(item, fields[key], f"{where}.{key}")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


class KfpDouble:
    """The server's state and its answers."""

    def __init__(self) -> None:
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.script: list[dict[str, Any]] = []
        """Changes a run goes through, one at each look."""
        self.page_limit = 2
        """Small, so that every list comes in pages."""
        self.writes: list[tuple[str, str]] = []
        self.token = ""
        self.away = 0
        """The status that every request gets, 0 for none."""
        self.instead: tuple[int, str, bytes, dict[str, str]] | None = None
        """Status, type, body and headers in place of every answer."""
        self.multi_user = False
        self.url = ""

    def answer(self, method: str, path: str, query: dict[str, str], raw: bytes, headers: Any) -> dict[str, Any]:
        """Route one request."""
        if self.away:
            raise Refused(self.away, "not now")
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(401, "who are you?")
        if not path.startswith("/apis/v2beta1/"):
            raise Refused(404, f"no such path {path}")
        parts = path.removeprefix("/apis/v2beta1/").split("/")
        if method != "GET":
            self.writes.append((method, path))
        match method, parts:
            case "GET", ["healthz"]:
                return {"multi_user": self.multi_user}
            case "GET", ["pipelines"]:
                return self.page("pipelines", self.pipelines, query)
            case "POST", ["pipelines"]:
                return self.add_pipeline(self.body(raw, "V2beta1Pipeline"))
            case "POST", ["pipelines", "upload_version"]:
                return self.upload(query, raw, headers)
            case "GET", ["pipelines", pipeline, "versions"]:
                own = {k: v for k, v in self.versions.items() if v["pipeline_id"] == pipeline}
                return self.page("pipeline_versions", own, query)
            case "GET", ["experiments"]:
                return self.page("experiments", self.experiments, query)
            case "POST", ["experiments"]:
                return self.put(self.experiments, "experiment_id", self.body(raw, "V2beta1Experiment"))
            case "POST", ["runs"]:
                return self.add_run(self.body(raw, "V2beta1Run"))
            case "GET", ["runs", run]:
                return self.look(run)
            case "GET", ["recurringruns"]:
                return self.page("recurringRuns", self.recurring, query)
            case "POST", ["recurringruns"]:
                return self.add_recurring(self.body(raw, "V2beta1RecurringRun"))
            case "DELETE", ["recurringruns", item]:
                if self.recurring.pop(item, None) is None:
                    raise Refused(404, "no such recurring run")
                return {}
        raise Refused(404, f"{method} {path} is not part of the API")

    def body(self, raw: bytes, kind: str) -> dict[str, Any]:
        value = json.loads(raw)
        check(value, kind, kind)
        return {key: item for key, item in value.items() if item is not None}

    def put(self, table: dict[str, Any], key: str, value: dict[str, Any]) -> dict[str, Any]:
        identifier = str(uuid.uuid4())
        table[identifier] = value | {key: identifier, "created_at": now()}
        return table[identifier]

    def page(self, name: str, table: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        unknown = set(query) - LISTING
        if unknown:
            raise Refused(400, f"no such query parameter: {unknown}")
        items = list(table.values())
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            if predicate["operation"] not in ("EQUALS", 1) or predicate["key"] not in ("display_name", "name"):
                raise Refused(400, f"filter {predicate}")
            items = [item for item in items if item.get(predicate["key"]) == predicate["stringValue"]]
        if query.get("experiment_id"):
            items = [item for item in items if item.get("experiment_id") == query["experiment_id"]]
        start = int(query.get("page_token") or 0)
        end = start + min(int(query.get("page_size") or 10), self.page_limit)
        answer: dict[str, Any] = {"total_size": len(items)}
        if items[start:end]:
            answer[name] = items[start:end]
        if end < len(items):
            answer["next_page_token"] = str(end)
        return answer

    def add_pipeline(self, value: dict[str, Any]) -> dict[str, Any]:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", value.get("name", "")):
            raise Refused(400, "pipeline name")
        if any(item["name"] == value["name"] for item in self.pipelines.values()):
            raise Refused(409, "a pipeline of this name exists")
        return self.put(self.pipelines, "pipeline_id", value)

    def upload(self, query: dict[str, str], raw: bytes, headers: Any) -> dict[str, Any]:
        unknown = set(query) - {"name", "display_name", "pipelineid", "description", "tags"}
        if unknown:
            raise Refused(400, f"no such query parameter: {unknown}")
        if query.get("pipelineid") not in self.pipelines:
            raise Refused(404, "no such pipeline")
        head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
        [part] = list(message.iter_parts())
        if part.get_param("name", header="content-disposition") != "uploadfile":
            raise Refused(400, "the file's field is called uploadfile")
        documents = list(yaml.safe_load_all(part.get_payload(decode=True)))
        json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        own = [v for v in self.versions.values() if v["pipeline_id"] == query["pipelineid"]]
        if any(item["display_name"] == query["name"] for item in own):
            raise Refused(409, "a version of this name exists")
        value = {
            "pipeline_id": query["pipelineid"],
            "display_name": query["name"],
            "name": query["name"],
            "description": query.get("description", ""),
            "pipeline_spec": {"pipeline_spec": documents[0], "platform_spec": documents[1]},
        }
        return self.put(self.versions, "pipeline_version_id", value)

    def referenced(self, value: dict[str, Any], *, pinned: bool) -> dict[str, Any]:
        """The version a run refers to; without one the newest."""
        reference = value.get("pipeline_version_reference") or {}
        if reference.get("pipeline_id") not in self.pipelines:
            raise Refused(404, "no such pipeline")
        own = [v for v in self.versions.values() if v["pipeline_id"] == reference["pipeline_id"]]
        if "pipeline_version_id" not in reference:
            if pinned or not own:
                raise Refused(400, "which version?")
            return own[-1]
        found = [v for v in own if v["pipeline_version_id"] == reference["pipeline_version_id"]]
        if not found:
            raise Refused(404, "no such version of this pipeline")
        return found[0]

    def check_parameters(self, value: dict[str, Any], version: dict[str, Any]) -> None:
        known = version["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        given = value.get("runtime_config", {}).get("parameters", {})
        for name, item in given.items():
            if name not in known:
                raise Refused(400, f"the pipeline has no parameter {name}")
            kind = {"NUMBER_INTEGER": int, "BOOLEAN": bool, "STRING": str}[known[name]["parameterType"]]
            if type(item) is not kind:
                raise Refused(400, f"parameter {name}: {kind}")

    def add_run(self, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("experiment_id") not in self.experiments:
            raise Refused(404, "no such experiment")
        self.check_parameters(value, self.referenced(value, pinned=True))
        return self.put(self.runs, "run_id", value | {"state": "PENDING"})

    def look(self, run: str) -> dict[str, Any]:
        if run not in self.runs:
            raise Refused(404, "no such run")
        if self.script:
            self.runs[run] |= self.script.pop(0)
        return self.runs[run]

    def add_recurring(self, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("experiment_id") not in self.experiments:
            raise Refused(404, "no such experiment")
        self.check_parameters(value, self.referenced(value, pinned=False))
        cron = value.get("trigger", {}).get("cron_schedule", {}).get("cron", "")
        if len(cron.split()) != 6:
            raise Refused(400, f"cron {cron!r} has not six fields")
        if value.get("mode") not in ("ENABLE", "DISABLE") or not 1 <= int(value.get("max_concurrency", 0)) <= 10:
            raise Refused(400, "mode and max_concurrency are needed")
        return self.put(self.recurring, "recurring_run_id", value)


@pytest.fixture(autouse=True)
def compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitting compiles for real, but the same content only once in all tests."""
    from pipelines import submit

    def compile_to(path: Path, profile: str, overrides: tuple[str, ...] = ()) -> None:
        key = (profile, overrides, os.environ.get("PIXELIS_GIT_SHA", ""))
        if key not in COMPILED:
            real_compile_to(path, profile, overrides)
            COMPILED[key] = path.read_bytes()
        path.write_bytes(COMPILED[key])

    monkeypatch.setattr(submit, "compile_to", compile_to)


@pytest.fixture
def kfp_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpDouble]:
    """A running double."""
    state = KfpDouble()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            query = {key: value[0] for key, value in parse_qs(parts.query, keep_blank_values=True).items()}
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            try:
                status, answer = 200, state.answer(self.command, parts.path, query, raw, self.headers)
            except Refused as error:
                status, answer = error.status, {"code": 3, "message": str(error), "error": str(error)}
            data, kind, more = json.dumps(answer).encode(), "application/json", {}
            if state.instead:
                status, kind, data, more = state.instead
            self.send_response(status)
            self.send_header("content-type", kind)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
