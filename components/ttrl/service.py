"""The service: from an upload and a question to an answer, an experience and, in time, a better adapter.

Role: owns the engine, the memory and the updates; knows no HTTP. `start` returns at once and loads in the background:
until a model answers, every question raises `ModelNotReadyError`.

Guarantees: one process owns a state directory (a lock says who); an experience id in an answer means that the
experience is on disk; a fault of the buffer never costs an answer, which then says `model-only` and why; changed
settings, pauses and rollbacks are written to `audit.jsonl` with who and when.
Not guaranteed: that an answer is right; its confidence is the vote's, moved a little by neighbours.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.shared.runtime.config import describe
from components.shared.runtime.errors import ConfigError, EnvironmentFault, InputError, ModelNotReadyError, PixelisError
from components.ttrl import held, sandbox
from components.ttrl.answering import Asked, Replies
from components.ttrl.audit import AuditLog
from components.ttrl.config import TtrlConfig
from components.ttrl.held import Held
from components.ttrl.memory import MemoryFault
from components.ttrl.metrics import Metrics
from components.ttrl.state_lock import StateLock
from components.ttrl.uploads import sweep
from components.ttrl.watching import Media

__all__ = ["Asked", "Media", "Service"]
log = logging.getLogger(__name__)
TUNABLE = frozenset(
    {
        "learn", "label_share", "label_margin", "negative_share", "quorum", "update_every", "max_source_share",
        "learning_rate", "canary_tolerance", "freeze_after", "neighbour_weight", "neighbour_similarity",
    }
)  # fmt: skip
"""Settings that may be changed while the service runs."""
SHOWN_UPDATES = 50
PROMOTION = "promotion.json"


class Service:
    """See the module.

    Args:
        config: The section.
        model: Promoted model folder, None for a service without one (503).
        state: Directory of everything that outlives the process.
    """

    def __init__(self, config: TtrlConfig, model: Path | None, state: Path) -> None:
        self.config, self.metrics = config, Metrics()
        self.state_dir, self.upload_dir = state, state / "uploads"
        self._model = model
        self._reason = "the model is being loaded"
        self.has_failed = False
        self._replies: Replies | None = None
        self._loader: threading.Thread | None = None
        self._lock: StateLock | None = None
        self._log: AuditLog | None = None
        self._admin = threading.Lock()
        self.held = Held()
        self._closing = threading.Event()
        self.started_s = time.time()

    # --- life

    def start(self) -> None:
        """Take the state directory and load in the background.

        Raises:
            EnvironmentFault: another process owns the directory, or it cannot be written.
        """
        self._lock = StateLock(self.state_dir)
        self._log = AuditLog(self.state_dir)
        self.held = held.load(self.state_dir)
        if self.held.paused:
            self.config = self.config.model_copy(update={"learn": False})
            log.warning("learning is paused since an earlier start; POST /admin/resume ends that")
        if leftovers := sweep(self.upload_dir):
            log.info("%d uploads of a process that was killed are removed", leftovers)
        sandbox.warm_up(["components.ttrl.decoding"])
        self._loader = threading.Thread(target=self._load, name="loader", daemon=True)
        self._loader.start()

    def close(self) -> None:
        """Finish what is under way and give everything back."""
        self._closing.set()
        if self._loader is not None:
            self._loader.join(120)
        replies, self._replies, self._reason = self._replies, None, "the service is stopping"
        if replies is not None:
            replies.close()
        if self._lock is not None:
            self._lock.release()

    def _load(self) -> None:
        started = time.monotonic()
        try:
            if self._model is None or not (self._model / PROMOTION).is_file():  # known before torch is imported
                raise ModelNotReadyError(
                    f"{self._model or 'no folder given'}: holds no promoted model ({PROMOTION}).",
                    remedy="Start the service with --model DIR of the promotion step's output.",
                )
            replies = Replies(self, self._model)
        except PixelisError as error:
            self._reason, self.has_failed = str(error), True
            log.error("not ready: %s", error)
            return
        except Exception as error:
            self._reason, self.has_failed = f"loading failed ({type(error).__name__})", True
            log.exception("not ready")
            return
        self._replies = replies
        self.metrics.ready.set(1)
        self.metrics.learning.set(float(self.config.learn))
        log.info("ready after %.1f s: model %s", time.monotonic() - started, replies.engine.model.digest[:12])
        replies.re_embed_outdated(self._closing)

    def readiness(self) -> tuple[bool, str]:
        """(whether a model answers, why not)."""
        return self._replies is not None, "" if self._replies is not None else self._reason

    def require_ready(self) -> Replies:
        """What answers.

        Raises:
            ModelNotReadyError: nothing does; never a made-up prediction.
        """
        if self._replies is None:
            raise ModelNotReadyError(f"no model answers: {self._reason}", remedy="Ask again when /readyz answers 200.")
        return self._replies

    # --- questions

    def predict(self, media: Media, question: str, asked: Asked) -> dict[str, Any]:
        """Answer a question about one window."""
        return self.require_ready().predict(media, question, asked)

    def analyze(self, media: Media, question: str, asked: Asked) -> dict[str, Any]:
        """A timeline of a whole recording."""
        return self.require_ready().analyze(media, question, asked)

    def feedback(
        self, identity: str, *, correct: bool | None, answer: dict[str, Any] | None, source: str
    ) -> dict[str, Any]:
        """Keep what a person says about an answer; it waits for review and teaches nothing by itself.

        Raises:
            InputError: no such experience, or an answer that is none.
            EnvironmentFault: the buffer cannot be written now.
        """
        replies = self.require_ready()
        memory = replies.memory
        if answer is not None:
            answer = replies.checked(answer)
        try:
            if memory is None:
                raise MemoryFault("there is no buffer")
            if not memory.has(identity):
                raise InputError(
                    f"there is no experience {identity[:40]!r}; nothing was kept.",
                    remedy="Send the experience_id of an answer that was stored and is not erased.",
                )
            memory.feedback(identity, {"correct": correct, "answer": answer, "by": source, "at": time.time()})
        except MemoryFault as fault:
            raise EnvironmentFault(f"feedback cannot be kept now ({fault}).", remedy="Send it again later.") from None
        return {"experience_id": identity, "kept": True, "state": "waits for review"}

    # --- what it is

    def status(self) -> dict[str, Any]:
        """Model, adapter, updates, buffer."""
        ready, reason = self.readiness()
        facts: dict[str, Any] = {
            "ready": ready,
            "reason": reason,
            "pid": os.getpid(),
            "uptime_s": time.time() - self.started_s,
            "learning": self.config.learn,
            "state_dir": str(self.state_dir),
        }
        return facts | (self._replies.status(SHOWN_UPDATES) if self._replies is not None else {})

    # --- administration

    def pause(self, *, by: str) -> dict[str, Any]:
        """Stop learning, also after a restart, until resumed; answering goes on."""
        return self.tune({"learn": False}, by=by)

    def resume(self, *, by: str) -> dict[str, Any]:
        """Learn again, also after a freeze."""
        self.require_ready().updates_or_refuse().thaw()
        return self.tune({"learn": True}, by=by)

    def rollback(self, *, by: str) -> dict[str, Any]:
        """Serve with the adapter before the present one, and stop learning until resumed.

        Raises:
            InputError: the promoted adapter serves already.
        """
        with self._admin:
            digest = self.require_ready().adapters.rollback()
            self._audited("rollback", by, {"adapter": digest})
        self.tune({"learn": False}, by=by)
        return {"adapter_digest": digest, "learning": False}

    def read_only(self, *, by: str) -> dict[str, Any]:
        """Answer without storing or learning, also after a restart."""
        return self._set_read_only(True, by)

    def writable(self, *, by: str) -> dict[str, Any]:
        """Store again."""
        return self._set_read_only(False, by)

    def erase(self, *, ids: Sequence[str], sources: Sequence[str], subjects: Sequence[str], by: str) -> dict[str, Any]:
        """Remove experiences with every byte of them (log, snapshots, frames, index).

        Adapters that learned from them stay; an operator may roll back to one from before.

        Raises:
            EnvironmentFault: not all bytes are gone yet.
        """
        memory = self.require_ready().memory
        try:
            if memory is None:
                raise MemoryFault("there is no buffer")
            count = memory.erase(ids=ids, sources=sources, subjects=subjects)
        except KeyError:
            raise InputError("an id is not an experience's; nothing was erased.") from None
        except MemoryFault as fault:
            raise EnvironmentFault(f"not all bytes are erased ({fault}).", remedy="Ask again.") from None
        self._audited("erase", by, {"ids": len(ids), "sources": len(sources), "subjects": len(subjects), "num": count})
        return {"erased": count}

    def tune(self, settings: dict[str, Any], *, by: str) -> dict[str, Any]:
        """Change settings while running.

        Raises:
            ConfigError: not a setting that may change, or a value out of bounds.
        """
        if unknown := sorted(set(settings) - TUNABLE):
            raise ConfigError(
                f"{', '.join(unknown)[:100]}: cannot be changed while the service runs; nothing was changed.",
                remedy=f"Changeable: {', '.join(sorted(TUNABLE))}.",
            )
        with self._admin:
            before = {key: getattr(self.config, key) for key in settings}
            self.config = self._with(settings)
            after = {key: getattr(self.config, key) for key in settings}
            if "learn" in settings:
                self._hold(paused=not self.config.learn)
            self._audited("tune", by, {"before": before, "after": after})
        self.metrics.learning.set(float(self.config.learn))
        return after

    def _with(self, settings: dict[str, Any]) -> TtrlConfig:
        try:
            return TtrlConfig.model_validate(self.config.model_dump(mode="json") | settings)
        except ValidationError as error:
            raise ConfigError(
                describe(error, "ttrl", consequence="nothing was changed"),
                remedy="components/ttrl/config.py gives the meaning and the bounds of every setting.",
            ) from None

    def _set_read_only(self, value: bool, by: str) -> dict[str, Any]:
        self.require_ready()
        with self._admin:
            self._hold(read_only=value)
            self._audited("read-only" if value else "writable", by, {})
        return {"read_only": value}

    def _hold(self, **changed: bool) -> None:
        self.held = self.held.model_copy(update=changed)
        held.save(self.state_dir, self.held)

    def _audited(self, action: str, by: str, facts: dict[str, Any]) -> None:
        assert self._log is not None, "start was called"
        self._log.append(action, by, facts)
