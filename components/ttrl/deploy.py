"""The pipeline's last step: put the promoted model into service, and prove that it answers.

Guarantees: the step succeeds only when `POST /predict` answered a canary clip with the promoted model's digest; a
service that is not ready in time is stopped, and the error carries the end of its log. The state folder outlives runs:
experiences stay, adapters made from an older model retire.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from components.shared.policy.prompts import operation_question
from components.shared.runtime.artifacts import read_json, tree_digest, write_json
from components.shared.runtime.errors import StepError
from components.shared.runtime.report import Report
from components.shared.samples import read_clips, read_questions
from components.shared.samples.jpeg import encode_jpeg
from components.ttrl.client import ask, ask_clip
from components.ttrl.config import TtrlConfig
from components.ttrl.control import RECORD, default_state_dir
from components.ttrl.launcher import Launcher, Running, launcher_here

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeployInputs:
    """`model`: the promoted model's folder."""

    model: Path


@dataclass(frozen=True)
class DeployOutputs:
    """`service`: receives service.json."""

    service: Path


def deploy(
    config: TtrlConfig, inputs: DeployInputs, outputs: DeployOutputs, *, launcher: Launcher | None = None
) -> Report:
    """Replace the running service by one of the promoted model and smoke-test it.

    Raises:
        StepError: not ready within `ready_timeout_s`, or the smoke test failed; nothing is left running.
    """
    provenance = read_json(inputs.model / "promotion.json").get("provenance", "synthetic")
    if not config.deploy:
        write_json(outputs.service / RECORD, {"url": None, "pid": None, "deployed": False})
        return Report(markdown="Deployment is switched off (`ttrl.deploy`).", provenance=provenance)
    state = default_state_dir(config)
    started = time.monotonic()
    running = (launcher or launcher_here()).replace(config, inputs.model, state)
    try:
        record = wait_ready(running, config.ready_timeout_s)
        ready_s = time.monotonic() - started
        answer, seconds = smoke_test(record["url"], inputs.model, timeout_s=config.request_timeout_s)
    except BaseException:
        running.kill()
        raise
    settled = running.settle()
    service = {**record, "model_digest": answer["model_digest"], "log": running.log, "deployed": True}
    write_json(outputs.service / RECORD, service)
    return Report(
        metrics={"ready_s": ready_s, "smoke_predict_s": seconds, "smoke_confidence": answer["confidence"]},
        provenance=provenance,
        markdown="\n\n".join(part for part in (_text(service, answer, ready_s, seconds), settled) if part),
        facts={"service": service, "smoke_test": answer},
    )


def wait_ready(running: Running, timeout_s: float) -> dict[str, Any]:
    """The service's record, once /readyz answers 200."""
    deadline = time.monotonic() + timeout_s
    reason = "it does not listen yet"
    while time.monotonic() < deadline:
        if not running.is_alive():
            raise StepError(
                f"the service ended while starting. The end of its log ({running.log}):\n{running.log_tail()}",
                remedy="Fix what the log names, then resume the run.",
            )
        record = running.record()
        if record is not None:
            try:
                answer = httpx.get(f"{record['url']}/readyz", timeout=5, trust_env=False)
                if answer.status_code == 200:
                    return record
                reason = answer.json().get("reason", "")
                if answer.json().get("failed"):
                    break
            except (httpx.HTTPError, ValueError) as error:
                reason = type(error).__name__
        time.sleep(0.2)
    raise StepError(
        f"the service was not ready ({reason}) and was stopped. "
        f"The end of its log ({running.log}):\n{running.log_tail()}",
        remedy="Fix what the log names, or allow more time with ttrl.ready_timeout_s; then resume the run.",
    )


def smoke_test(url: str, model: Path, *, timeout_s: float) -> tuple[dict[str, Any], float]:
    """Ask the first canary question over HTTP, with the clip's own frames; nothing of it is stored.

    A model without canary clips is asked about a grey picture: what counts is that the promoted model answers. Where
    the service has keys, $PIXELIS_API_KEY holds one with the role client.

    Returns:
        (answer, seconds).

    Raises:
        StepError: the service answers with another model.
        EnvironmentFault: it does not answer.
    """
    canary = model / "canary"
    question = next(iter(read_questions(canary, "canary")), None)
    clips = read_clips(canary, "canary") if question else iter(())
    clip = next((one for one in clips if question and one.meta.clip_id == question.clip_id), None)
    started = time.monotonic()
    with httpx.Client(trust_env=False) as client:
        if question is not None and clip is not None:
            answer = ask_clip(client, url, clip, question.text, store=False, timeout_s=timeout_s)
        else:
            grey = encode_jpeg(np.full((84, 112, 3), 128, np.uint8))
            answer = ask(client, url, operation_question(), [grey], {"store": "false"}, timeout_s=timeout_s)
    seconds = time.monotonic() - started
    promoted = tree_digest(model)
    if answer["model_digest"] != promoted:
        raise StepError(
            f"the service at {url} answers with model {answer['model_digest'][:12]}, not with the promoted "
            f"{promoted[:12]}.",
            remedy="Stop what answers there (`pixelis ttrl stop`) and resume the run.",
        )
    return answer, seconds


def _spoken(answer: dict[str, Any] | None) -> str:
    """An answer in words, as the service's page says it."""
    if not answer:
        return "no usable answer"
    if "operation" not in answer:
        return str(answer.get("value", json.dumps(answer)))
    segment = f"{answer['start_s']:.1f} – {answer['end_s']:.1f} s of the window"
    return f"{answer['operation']}, {segment}; next: {answer.get('next_operation') or 'nothing'}"


def _text(service: dict[str, Any], answer: dict[str, Any], ready_s: float, seconds: float) -> str:
    names = {"container": service.get("container"), "process": service["pid"], "deployment": service.get("deployment")}
    where = next(f"{kind} {name}" for kind, name in names.items() if name)
    return (
        f"The service answers at {service['url']} ({where}), ready after {ready_s:.1f} s.\n\n"
        f"Canary smoke test: {_spoken(answer['answer'])}, with confidence {answer['confidence']:.2f} "
        f"in {seconds:.2f} s{'' if answer['mode'] == 'full' else ', without memory'}.\n\n"
        f"Experiences and adapters live in `{service['state_dir']}`; its log is `{service['log']}`."
    )
