"""HTTP in front of the service: routes, keys, limits, and one shape of error.

Role: the only file of `ttrl` that knows HTTP. It turns a request into a call of `Service` and a result or an error
into an answer. Errors are `{"error", "remedy", "trace_id"}`; every answer carries its trace id in `X-Trace-Id`.

    POST /predict    multipart `video` | `image`..., `question`; or a raw video/ | image/ body, ?question=   client
    POST /analyze    the same with a longer video: a timeline                                                client
    POST /feedback   {"experience_id", "correct" | "answer"}: kept for review                                client
    GET  /status     model, adapter, updates, buffer                                                         viewer
    GET  /metrics    Prometheus                                                                              viewer
    GET  /           a page to try it by hand                                                                open
    GET  /healthz    the process lives · GET /readyz a model answers (else 503)                              open
    POST /admin/pause | resume | rollback                                                                  operator
    POST /admin/read-only | writable | tune | erase                                                           admin

Guarantees: without a model the answer is 503, never a made-up prediction; a body is read only after the key was
checked, and never past the cap; no question, answer or file name is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.shared.runtime.config import Section, describe
from components.shared.runtime.errors import ConfigError, EnvironmentFault, InputError, ModelNotReadyError, PixelisError
from components.ttrl.admission import Admission, Refused
from components.ttrl.fields import start_of, store_of, times_of
from components.ttrl.metrics import Metrics
from components.ttrl.page import PAGE, POLICY
from components.ttrl.security import Caller, Gatekeeper, RateLimiter, Role, is_loopback
from components.ttrl.service import Asked, Media, Service
from components.ttrl.uploads import Limits, UploadRefused, received, too_big

log = logging.getLogger(__name__)

HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
SMALL_BODY = 1 << 20
CLIENT_GONE = 499
"""The status under which a request is counted whose client left before its last byte."""
ROUTES = "GET / shows a page to try it; POST /predict, /analyze, /feedback; GET /status, /metrics, /healthz, /readyz."
PROBES = ("/healthz", "/readyz", "/metrics")
"""Asked all the time by machines: not worth a log line each."""


class Feedback(Section):
    """What a person says about an answer; a label after review, never a direct gradient."""

    experience_id: str
    correct: bool | None = None
    answer: dict[str, Any] | None = None


class Tuning(Section):
    """New values of settings that may change while the service runs."""

    settings: dict[str, Any]


class Erasure(Section):
    """What is to be erased: experiences by id, by source (key name) or by subject."""

    ids: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()


def create_app(service: Service, gatekeeper: Gatekeeper) -> ASGIApp:
    """The application around a service; the caller starts and closes the service."""
    app = FastAPI(title="Pixelis", docs_url=None, redoc_url=None, openapi_url=None)
    config = service.config
    gate = _Gate(gatekeeper, RateLimiter(config.requests_per_minute))
    admission = Admission(config.concurrency, config.max_body_bytes, service.metrics)
    limits = Limits(config.max_body_bytes, config.max_images, config.upload_timeout_s)

    async def look(request: Request, work: Callable[..., dict[str, Any]], max_duration_s: float) -> JSONResponse:
        caller = gate.check(request, "client")
        service.require_ready()
        with admission.place():
            async with received(request, service.upload_dir, limits, admission.room) as upload:
                fields = upload.fields
                asked = Asked(caller.name, request.state.trace_id, store=store_of(fields))
                times_s, start_s = times_of(upload), start_of(upload)

                def answer() -> dict[str, Any]:
                    media = Media(
                        video=upload.videos[0].path if upload.videos else None,
                        images=tuple(image.path for image in upload.images),
                        start_s=start_s,
                        times_s=times_s,
                        max_duration_s=max_duration_s,
                    )
                    return work(media, fields.get("question", ""), asked)

                async with admission.turn():
                    # shielded: a client that goes away must not free its files and its turn while they are at work
                    return JSONResponse(await _finish(asyncio.ensure_future(asyncio.to_thread(answer))))

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        return await look(request, service.predict, config.max_duration_s)

    @app.post("/analyze")
    async def analyze(request: Request) -> JSONResponse:
        return await look(request, service.analyze, config.max_analyze_s)

    @app.post("/feedback")
    async def feedback(request: Request) -> JSONResponse:
        caller = gate.check(request, "client")
        said = await _body(request, Feedback)
        if (said.correct is None) == (said.answer is None):
            raise Refused(
                422,
                "feedback holds both or neither of `correct` and `answer`; nothing was kept.",
                remedy='Send {"experience_id": …, "correct": false}, or the right answer as `answer`.',
            )
        kept = await asyncio.to_thread(
            service.feedback, said.experience_id, correct=said.correct, answer=said.answer, source=caller.name
        )
        return JSONResponse(kept)

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        ready, reason = service.readiness()
        body = {"status": "ready"} if ready else {"status": "not ready", "reason": reason, "failed": service.has_failed}
        return JSONResponse(body, status_code=200 if ready else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        gate.check(request, "viewer")
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4")

    @app.get("/status")
    async def status(request: Request) -> JSONResponse:
        gate.check(request, "viewer")
        return JSONResponse(await asyncio.to_thread(service.status))

    @app.post("/admin/tune")
    async def tune(request: Request) -> JSONResponse:
        caller = gate.check(request, "admin")
        wanted = await _body(request, Tuning)
        return JSONResponse(await asyncio.to_thread(service.tune, wanted.settings, by=caller.name))

    @app.post("/admin/erase")
    async def erase(request: Request) -> JSONResponse:
        caller = gate.check(request, "admin")
        wanted = await _body(request, Erasure)
        if not (wanted.ids or wanted.sources or wanted.subjects):
            raise Refused(
                422,
                "erase names neither `ids` nor `sources` nor `subjects`; nothing was erased.",
                remedy='For example: {"sources": ["line-3"]}.',
            )
        work = partial(service.erase, ids=wanted.ids, sources=wanted.sources, subjects=wanted.subjects, by=caller.name)
        return JSONResponse(await asyncio.to_thread(work))

    @app.post("/admin/{action}")
    async def admin(action: str, request: Request) -> JSONResponse:
        actions: dict[str, tuple[Role, Callable[..., dict[str, Any]]]] = {
            "pause": ("operator", service.pause),
            "resume": ("operator", service.resume),
            "rollback": ("operator", service.rollback),
            "read-only": ("admin", service.read_only),
            "writable": ("admin", service.writable),
        }
        if action not in actions:
            raise Refused(
                404, f"no such action {action[:40]!r}.", remedy=f"Actions: {', '.join(actions)}, tune, erase."
            )
        role, work = actions[action]
        caller = gate.check(request, role)
        return JSONResponse(await asyncio.to_thread(work, by=caller.name))

    _handle_errors(app)
    return _Envelope(app, service.metrics, max_bytes=config.max_body_bytes)


class _Gate:
    """Who asks, and whether they may."""

    def __init__(self, gatekeeper: Gatekeeper, limiter: RateLimiter) -> None:
        self._gatekeeper, self._limiter = gatekeeper, limiter

    def check(self, request: Request, role: Role) -> Caller:
        header = request.headers.get("authorization", "")
        key = header[7:] if header.lower().startswith("bearer ") else request.headers.get("x-api-key")
        caller = self._gatekeeper.identify(key)
        if caller is None:
            raise Refused(401, "no valid API key was sent.", remedy="Send `Authorization: Bearer KEY`.")
        if self._gatekeeper.is_open and not _is_local(request):
            raise Refused(
                403,
                "the service has no keys and does not answer pages of other sites or other host names.",
                remedy="Ask http://127.0.0.1 directly, or give the service a keys_file.",
            )
        if not caller.may(role):
            raise Refused(
                403,
                f"this needs the role {role}; the key {caller.name} has {caller.role}, so nothing was done.",
                remedy=f"Use a key with the role {role} or higher.",
            )
        wait_s = self._limiter.wait_s(caller.name)
        if wait_s > 0:
            raise Refused(
                429,
                f"the key {caller.name} is over ttrl.requests_per_minute, so this request was refused.",
                remedy="Ask again after the seconds that Retry-After names.",
                retry_after_s=wait_s,
            )
        return caller


def _is_local(request: Request) -> bool:
    """Whether an open service may trust that no foreign web page asks (cross-site requests, rebound host names)."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    return is_loopback(request.url.hostname or "")


class _Envelope:
    """Around every request: trace id, security headers, body cap, one access line without user data."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, max_bytes: int) -> None:
        self._app, self._metrics, self._max_bytes = app, metrics, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace_id = uuid.uuid4().hex
        scope.setdefault("state", {})["trace_id"] = trace_id
        started, status, seen = time.perf_counter(), 500, 0
        upload = scope["path"] in ("/predict", "/analyze")
        limit = self._max_bytes if upload else min(SMALL_BODY, self._max_bytes)

        async def capped() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise too_big(limit)
            return message

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = dict(message.get("headers", []))
                more = {**HEADERS, b"x-trace-id": trace_id.encode()}
                message["headers"] = [*own.items(), *((name, value) for name, value in more.items() if name not in own)]
            await send(message)

        try:
            await self._app(scope, capped, dressed)
        except Exception:  # already answered with 500 and logged without its text; the server would log it with
            if status != 500:
                raise
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.latency.labels("request").observe(seconds)
            level = logging.DEBUG if route in PROBES else logging.INFO
            log.log(
                level, "%s %s %d %.0f ms", scope["method"], route, status, 1000 * seconds, extra={"trace_id": trace_id}
            )


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(PixelisError)
    async def expected(request: Request, error: PixelisError) -> JSONResponse:
        status = _status_of(error)
        headers = {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if status in (429, 503):
            headers["Retry-After"] = str(max(1, round(getattr(error, "retry_after_s", 1.0))))
        return _failure(request, status, error.message, error.remedy, headers)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        shown = f"{request.method} {request.url.path[:80]}"
        if allowed := headers.get("Allow"):
            return _failure(
                request, error.status_code, f"{shown}: no such method here.", f"Allowed: {allowed}.", headers
            )
        return _failure(request, error.status_code, f"{shown}: {str(error.detail).lower()}.", ROUTES, headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)  # nobody reads it; the access line and the counter say what happened

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _failure(request, 422, "the request does not have the expected fields.", "", {})

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        trace = {"trace_id": request.state.trace_id}
        # the traceback without the message: an exception's text may quote what the user sent
        log.error("unexpected %s", type(error).__name__, extra=trace)
        log.debug("", exc_info=error, extra=trace)
        return _failure(request, 500, "an unexpected error; the log names it under this trace id.", "", {})


def _status_of(error: PixelisError) -> int:
    if isinstance(error, (Refused, UploadRefused)):
        return error.status
    for kind, status in ((ModelNotReadyError, 503), (ConfigError, 422), (InputError, 422), (EnvironmentFault, 503)):
        if isinstance(error, kind):
            return status
    return 500


def _failure(request: Request, status: int, message: str, remedy: str, headers: dict[str, str]) -> JSONResponse:
    body = {"error": message, "remedy": remedy, "trace_id": request.state.trace_id}
    return JSONResponse(body, status_code=status, headers=headers)


async def _body(request: Request, kind: type[Section]) -> Any:
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        raise Refused(
            422,
            describe(error, "body", consequence="nothing was done"),
            remedy=f"Send a JSON object with: {', '.join(kind.model_fields)}.",
        ) from None


async def _finish(call: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
    """The call's result; when the client goes away the call is still waited for, then the cancellation goes on."""
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await call
        raise
