"""The Kubeflow Pipelines server as `submit` and `schedule` use it: pipelines, their versions, experiments.

All through the official client. Guarantee: asking twice for the same thing makes it once. A version is named by the
commit it is compiled from and carries the digest of its content in its description; the same commit with other content
(another `--set`, uncommitted changes) gets the digest in its name too.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from components.shared.runtime.errors import ConfigError, EnvironmentFault
from pipelines.config import compose, git_sha
from pipelines.training import NAME, build

DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
PAGE = 100
FORWARD = "From outside: kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80, and --host http://localhost:8080"
REFUSED = "Pass a token in PIXELIS_KFP_TOKEN, and your own namespace with --namespace."
PAST_LOGIN = f"A page to log in? Pass a token in PIXELIS_KFP_TOKEN. Another program? {FORWARD}"
PASSING = (429, 500, 502, 503, 504)
"""Answers of a server that may be others a moment later."""
TYPES: dict[str, type] = {"Integer": int, "String": str, "Boolean": bool, "Float": float}
"""Types of the run form, as kfp names them."""


@dataclass(frozen=True)
class Version:
    """An uploaded pipeline version."""

    pipeline_id: str
    version_id: str
    name: str
    is_new: bool


class Server:
    """A Kubeflow Pipelines API server."""

    def __init__(self, host: str, *, namespace: str = "", token: str = "") -> None:
        """Connect.

        Args:
            host: Address of the API or of the UI that proxies it.
            namespace: The user's namespace on a multi-user Kubeflow; empty elsewhere.
            token: Bearer token, where the server wants one.

        Raises:
            ConfigError: no address, no name of a namespace, or none where the server has several users.
            EnvironmentFault: nothing answers there.
        """
        import kfp

        self.host, self.namespace = host.rstrip("/"), namespace
        check_namespace(namespace)
        facts = check_answers(self.host, token)  # the client itself would try for half a minute
        if facts.get("multi_user") and not namespace:
            raise ConfigError(
                f"{self.host} is a Kubeflow of several users, whose runs belong to a namespace; nothing was sent.",
                remedy="Name yours with --namespace.",
            )
        with explained(self.host), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.client = kfp.Client(host=self.host, existing_token=token or None, namespace=namespace or "kubeflow")

    def pipeline_id(self, name: str, *, create: bool = True, description: str = "") -> str | None:
        """The pipeline's id; made where missing, or None where `create` is off."""
        import kfp_server_api

        with explained(self.host):
            found = self.client._pipelines_api.pipeline_service_list_pipelines(
                filter=named(name), page_size=PAGE, **self.scope()
            )
            if found.pipelines:
                return found.pipelines[0].pipeline_id
            if not create:
                return None
            body = kfp_server_api.V2beta1Pipeline(display_name=name, name=name, description=description, **self.scope())
            made = self.client._pipelines_api.pipeline_service_create_pipeline(body)
            return self.identified(made.pipeline_id, f"pipeline {name}")

    def versions(self, pipeline_id: str) -> dict[str, Any]:
        """All versions of a pipeline by name."""
        with explained(self.host):
            found = pages(
                lambda token: self.client.list_pipeline_versions(pipeline_id, page_token=token, page_size=PAGE),
                "pipeline_versions",
            )
            return {item.display_name: item for item in found}

    def upload(self, package: Path, pipeline: str, description: str) -> Version:
        """Make sure that the pipeline has a version with this content."""
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        pipeline_id = str(self.pipeline_id(pipeline, description=description))
        known = self.versions(pipeline_id)
        name = git_sha()[:12]
        for candidate in (name, f"{name}-{digest[:8]}"):
            found = known.get(candidate)
            if found is None:
                with explained(self.host), contextlib.redirect_stdout(io.StringIO()):
                    made = self.client.upload_pipeline_version(
                        str(package), candidate, pipeline_id=pipeline_id, description=f"sha256:{digest}"
                    )
                identifier = self.identified(made.pipeline_version_id, f"version {candidate}")
                return Version(pipeline_id, identifier, candidate, True)
            if digest_of(found.description) == digest:
                return Version(pipeline_id, found.pipeline_version_id, candidate, False)
        raise ConfigError(
            f"pipeline {pipeline} has a version {candidate} with other content; nothing was uploaded.",
            remedy="Delete that version in the UI, or commit and submit again.",
        )

    def experiment_id(self, name: str) -> str:
        """The experiment's id, made where missing."""
        with explained(self.host), contextlib.redirect_stdout(io.StringIO()):
            made = self.client.create_experiment(name, namespace=self.namespace or None)
            return self.identified(made.experiment_id, f"experiment {name}")

    def identified(self, identifier: str | None, what: str) -> str:
        """The id of what the server made. A page in place of an answer reads as an object without fields."""
        if not identifier:
            raise EnvironmentFault(f"{self.host} gave {what} no id: that is no answer of the API.", remedy=PAST_LOGIN)
        return identifier

    def scope(self) -> dict[str, str]:
        """The namespace argument, where there is one."""
        return {"namespace": self.namespace} if self.namespace else {}


def check_namespace(name: str) -> None:
    """Refuse what Kubernetes would not take as a namespace; empty means none.

    Raises:
        ConfigError: names it.
    """
    if name and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise ConfigError(f"--namespace {name!r} is no name of a namespace (a-z, 0-9, -); nothing was sent.")


def check_answers(host: str, token: str) -> dict[str, Any]:
    """Refuse a host where no Kubeflow Pipelines answers; returns what it says about itself.

    Raises:
        ConfigError: not an http address.
        EnvironmentFault: nothing answers, or not with a healthy server's answer.
    """
    if not host.startswith(("http://", "https://")):
        raise ConfigError(f"--host {host!r} is not an address of the form http://… or https://….")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.get(f"{host}/apis/v2beta1/healthz", headers=headers, timeout=10, trust_env=False)
    except httpx.HTTPError as error:
        raise EnvironmentFault(
            f"no Kubeflow Pipelines server answers at {host} ({type(error).__name__}: {error}).", remedy=FORWARD
        ) from error
    if answer.is_redirect:
        raise EnvironmentFault(
            f"{host} sends to {answer.headers['location']} in place of an answer.", remedy=PAST_LOGIN
        )
    if answer.status_code != 200:
        raise EnvironmentFault(
            f"{host} answers {answer.status_code}: {answer.text[:200]}.",
            remedy=REFUSED if answer.status_code in (401, 403) else FORWARD,
        )
    try:
        facts = answer.json()
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        kind = answer.headers.get("content-type", "something")
        raise EnvironmentFault(
            f"{host} answers with {kind} where Kubeflow Pipelines says how it is; nothing was sent.", remedy=PAST_LOGIN
        )
    return facts


def compile_to(path: Path, profile: str, overrides: tuple[str, ...] = ()) -> Any:
    """Compile a profile's pipeline to a file; returns the composed configuration."""
    from kfp import compiler

    config = compose(profile, overrides, {})
    compiler.Compiler().compile(build(config), str(path))
    return config


def pipeline_name(profile: str) -> str:
    """One pipeline a profile: images and placement are fixed in it."""
    return f"{NAME}-{profile}"


@cache
def form(profile: str) -> dict[str, str]:
    """The run form's parameters and their KFP types."""
    inputs = build(compose(profile, (), {})).component_spec.inputs  # type: ignore[attr-defined]
    return {name: spec.type for name, spec in inputs.items()}


def check_parameters(values: dict[str, Any], profile: str) -> None:
    """Refuse parameters that the run form does not have, or of another type.

    Raises:
        ConfigError: names the parameter, its value and what is allowed.
    """
    known = form(profile)
    for name, value in values.items():
        if name not in known:
            raise ConfigError(
                f"parameter {name} = {value!r}: the run form has no such field; nothing was started.",
                remedy=f"Choose among {', '.join(sorted(known))}.",
            )
        wanted = TYPES[known[name]]
        if type(value) is not wanted:
            raise ConfigError(f"parameter {name} = {value!r}: {wanted.__name__} expected; nothing was started.")


def digest_of(description: str | None) -> str:
    """The digest kept in a description, empty where there is none."""
    found = DIGEST.search(description or "")
    return found.group(1) if found else ""


def named(name: str) -> str:
    """The list filter for a display name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def pages(ask: Callable[[str], Any], key: str) -> Iterator[Any]:
    """All items of a list that comes in pages."""
    token = ""
    while True:
        answer = ask(token)
        yield from getattr(answer, key) or []
        token = answer.next_page_token or ""
        if not token:
            return


@contextlib.contextmanager
def explained(host: str) -> Iterator[None]:
    """Turn the client's exceptions into errors that name the server and what it said."""
    import kfp_server_api
    from urllib3.exceptions import HTTPError

    try:
        yield
    except kfp_server_api.ApiException as error:
        raise EnvironmentFault(
            f"{host} answers {error.status}: {said(error)}.",
            remedy=REFUSED if error.status in (401, 403) else "",
        ) from error
    except HTTPError as error:
        raise EnvironmentFault(
            f"no Kubeflow Pipelines server answers at {host} ({type(error).__name__}).",
            remedy=FORWARD,
        ) from error


def may_pass(fault: EnvironmentFault) -> bool:
    """Whether asking again may help: nothing answered, or a server that is restarting or overloaded."""
    status = getattr(fault.__cause__, "status", None)
    return status is None or status in PASSING


def said(error: Any) -> str:
    """What the server gave as the reason."""
    try:
        value = json.loads(error.body)
        return str(value.get("error_message") or value.get("message") or value.get("error"))[:500]
    except (TypeError, ValueError, AttributeError):
        return str(error.reason)
