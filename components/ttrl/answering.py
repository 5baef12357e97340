"""How a question becomes an answer: decode, vote, listen to neighbours, gate, remember, maybe ask for an update.

Role: the middle of the service, built once a model is loaded. `Service` owns it and knows what may change at run time
(its configuration); this file knows the order of things.

Answer: {answer, confidence, vote_share, votes, abstentions, trajectory, unparsed, window, model_digest, adapter_digest,
trace_id, mode, degraded, experience_id, pseudo_label}. `answer` is None and `unparsed` true where no rollout gave one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.runtime.artifacts import sha256_bytes
from components.shared.runtime.errors import EnvironmentFault, InputError
from components.ttrl.batching import Batcher
from components.ttrl.gating import Lesson, lesson
from components.ttrl.guard import AdapterStore, Ledger, UpdateRecord
from components.ttrl.memory import Memory, MemoryFault, name_of
from components.ttrl.re_embedding import re_embed_outdated
from components.ttrl.security import neutralise
from components.ttrl.serving_adapters import ServingAdapters, of_one_adapter
from components.ttrl.updates import Updates
from components.ttrl.voting import adjusted_confidence
from components.ttrl.watching import Media, Window, windows_of

if TYPE_CHECKING:
    from components.ttrl.engine import Outcome
    from components.ttrl.service import Service

log = logging.getLogger(__name__)
ROUND = 4
SHOWN_LEFT = 20


@dataclass(frozen=True)
class Asked:
    """Who asks, under which trace id, and whether the question may be stored."""

    source: str
    trace_id: str
    store: bool = True


class Replies:
    """The loaded service.

    Args:
        service: Owner: configuration, metrics, state directory.
        folder: Promoted model folder.

    Raises:
        ModelNotReadyError: no usable model there.
    """

    def __init__(self, service: Service, folder: Path) -> None:
        from components.ttrl.engine import Engine

        self._service = service
        config = service.config
        if config.threads:
            import torch

            torch.set_num_threads(config.threads)
        self.engine = Engine(folder, config)
        model = self.engine.model
        self._counter = threading.Lock()
        self.memory, self.memory_fault = self._open_memory()
        self.ledger = Ledger(service.state_dir / "updates.jsonl")
        self.store = AdapterStore(service.state_dir, model.digest, keep=config.keep_adapters)
        if self.memory is not None:
            service.metrics.buffer_experiences.set_function(self.memory.num_experiences)
        self._names = (*model.labels, *model.policy.description.choices)
        self._num_labels = self._count_labels()
        self._since_update = 0
        self.not_re_embedded: dict[str, str] = {}
        """Experiences that kept an earlier encoder's embedding, with the kind of error."""
        self.batcher: Batcher[Any, Outcome] = Batcher(
            self.engine.answer, most=config.batch_requests, wait_s=config.batch_wait_ms / 1000
        )
        self.adapters = ServingAdapters(self.engine, self.batcher, self.store, self.ledger)
        self.adapters.restore()
        self.updates: Updates | None = None
        if self.memory is not None:
            self.updates = Updates(
                lambda: service.config,
                model=folder,
                state=service.state_dir,
                labels=self._names,
                memory=self.memory,
                store=self.store,
                ledger=self.ledger,
                metrics=service.metrics,
                swap=self.adapters.swap,
                anchor_digest=model.anchor_digest,
            )

    # --- answering

    def predict(self, media: Media, question: str, asked: Asked) -> dict[str, Any]:
        """Answer a question about one window of the media."""
        started = time.monotonic()
        config = self._service.config
        text = self._question(question)
        windows, _ = self._look(media, samplings=config.frame_samplings, hop_s=None)
        window = windows[0]
        outcome = self._ask(window, text, config.rollouts, started)
        metrics = self._service.metrics
        metrics.rollouts.inc(len(outcome.answers))
        metrics.abstentions.inc(len(outcome.answers) - outcome.ballot.num_votes)
        taught = lesson(
            outcome.ballot,
            share=config.label_share,
            margin=config.label_margin,
            negative_share=config.negative_share,
            quorum=config.quorum,
        )
        identity, degraded, confidence = self._remember(window, text, outcome, taught, asked)
        winner = outcome.ballot.winner
        metrics.confidence.observe(confidence)
        if identity is not None:
            metrics.labels.labels("label" if taught.label else "negatives" if taught.negatives else "nothing").inc()
        if winner is None:
            metrics.unparsed.inc()
        if degraded:
            metrics.model_only.labels(degraded.split(":", maxsplit=1)[0]).inc()
        metrics.latency.labels("answer").observe(time.monotonic() - started)
        return {
            "answer": winner.answer if winner else None,
            "confidence": round(confidence, ROUND),
            "vote_share": round(outcome.ballot.top_share, ROUND),
            "votes": [{"answer": one.answer, "count": one.count} for one in outcome.ballot.classes],
            "abstentions": len(outcome.answers) - outcome.ballot.num_votes,
            "unparsed": winner is None,
            "trajectory": list(outcome.trajectory),
            "window": {"start_s": window.start_s, "padded_s": window.padded_s},
            "model_digest": self.engine.model.digest,
            "adapter_digest": outcome.adapter_digest,
            "trace_id": asked.trace_id,
            "mode": "model-only" if degraded else "full",
            "degraded": degraded,
            "experience_id": identity,
            "pseudo_label": identity is not None and taught.label is not None,
        }

    def analyze(self, media: Media, question: str, asked: Asked) -> dict[str, Any]:
        """A timeline: sliding windows, each answered by votes, laid over each other; nothing is stored.

        Without a question, the one the policy was trained on is asked.
        """
        from components.ttrl.timeline import timeline

        started = time.monotonic()
        config = self._service.config
        if media.video is None:
            raise InputError("a timeline needs a video.", remedy="Send images to POST /predict.")
        text = self._question(question or self.default_question())
        windows, duration_s = self._look(media, samplings=1, hop_s=config.analyze_hop_s)
        asks = [self._request(window, text, config.analyze_rollouts) for window in windows]
        limit_s = config.request_timeout_s * max(1, len(windows) / 8)
        wait = partial(self._wait, started=started, timeout_s=limit_s)
        outcomes = of_one_adapter(asks, lambda some: self.batcher.in_turn(some, wait))
        answers = [
            (window.start_s, outcome.ballot.winner.answer if outcome.ballot.winner else None, outcome.ballot.confidence)
            for window, outcome in zip(windows, outcomes, strict=True)
        ]
        return {
            "duration_s": duration_s,
            "timeline": timeline(answers, duration_s),
            "windows": [
                {"start_s": start, "answer": answer, "confidence": round(confidence, ROUND)}
                for start, answer, confidence in answers
            ],
            "model_digest": self.engine.model.digest,
            "adapter_digest": outcomes[-1].adapter_digest,
            "trace_id": asked.trace_id,
        }

    def _question(self, question: str) -> str:
        text = neutralise(question)
        limit = self._service.config.max_question_chars
        if not text:
            raise InputError(
                "the question is empty, so there is nothing to answer.",
                remedy=f"Ask, for example: {self.default_question()}",
            )
        if len(text) > limit:
            raise InputError(f"the question has {len(text)} characters, {limit} are allowed.", remedy="Ask shorter.")
        return text

    def checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        """A person's answer as the policy would have to write it.

        Raises:
            InputError: it is none; says what is wrong with it.
        """
        from components.shared.policy.answers import validate

        model = self.engine.model
        clean, problem = validate(answer, labels=model.labels, choices=model.policy.description.choices)
        if clean is None:
            raise InputError(
                f"the answer cannot be a label: {problem}; nothing was kept.",
                remedy="Send operation, start_s, end_s and next_operation, or value; GET /status has the labels.",
            )
        return clean

    def default_question(self) -> str:
        """The question the policy was trained on."""
        from components.shared.policy.prompts import operation_question

        return operation_question()

    def _look(self, media: Media, *, samplings: int, hop_s: float | None) -> tuple[list[Window], float]:
        started = time.monotonic()
        found = windows_of(media, self.engine.model, self._service.config, samplings=samplings, hop_s=hop_s)
        self._service.metrics.latency.labels("decode").observe(time.monotonic() - started)
        return found

    def _request(self, window: Window, text: str, rollouts: int) -> Any:
        from components.ttrl import engine

        seed = int(sha256_bytes(f"{self._service.config.seed}|{text}|{window.key}".encode())[:7], 16)
        return engine.Asked(window, text, rollouts, seed)

    def _ask(self, window: Window, text: str, rollouts: int, started: float) -> Outcome:
        asked_s = time.monotonic()
        future = self.batcher.submit(self._request(window, text, rollouts))
        outcome = self._wait(future, started, self._service.config.request_timeout_s)
        self._service.metrics.latency.labels("rollouts").observe(time.monotonic() - asked_s)
        return outcome

    def _wait(self, future: Any, started: float, timeout_s: float) -> Any:
        try:
            return future.result(max(timeout_s - (time.monotonic() - started), 0.1))
        except TimeoutError:
            future.cancel()
            raise EnvironmentFault(
                f"no answer within {timeout_s:g} s, so the request was given up.", remedy="Ask again later."
            ) from None

    # --- remembering

    def _remember(
        self, window: Window, text: str, outcome: Outcome, taught: Lesson, asked: Asked
    ) -> tuple[str | None, str, float]:
        """(experience id, why the answer is model-only or '', confidence)."""
        config = self._service.config
        confidence = outcome.ballot.confidence
        if self.memory is None:
            return None, self.memory_fault, confidence
        if self._service.held.read_only:
            return None, "read-only", confidence
        started = time.monotonic()
        assert outcome.visual is not None
        winner = outcome.ballot.winner
        identity = None
        try:
            if winner is not None and config.neighbours:
                near = self.memory.neighbours(
                    outcome.visual, outcome.text, k=config.neighbours, least=config.neighbour_similarity
                )
                agreements = [
                    (similarity, answer is not None and name_of(answer) == name_of(winner.answer))
                    for similarity, answer, other in near
                    if self.memory.same_question(other, text)
                ]
                confidence = adjusted_confidence(
                    confidence, agreements, num_asked=config.neighbours, weight=config.neighbour_weight
                )
            if asked.store:
                identity = self._append(window, text, outcome, taught, asked, confidence)
        except MemoryFault as fault:
            return None, str(fault), outcome.ballot.confidence
        finally:
            self._service.metrics.latency.labels("memory").observe(time.monotonic() - started)
        if identity is not None and taught.label is not None:
            self._count(config.learn)
        return identity, "", confidence

    def _append(
        self, window: Window, text: str, outcome: Outcome, taught: Lesson, asked: Asked, confidence: float
    ) -> str:
        assert self.memory is not None and outcome.visual is not None
        winner = outcome.ballot.winner
        look = window.looks[0]
        return self.memory.remember(
            question=text,
            visual=outcome.visual,
            text=outcome.text,
            source=asked.source,
            trace_id=asked.trace_id,
            jpegs=look.jpegs,
            answer=winner.answer if winner else None,
            votes=[(one.answer, one.share) for one in outcome.ballot.classes],
            confidence=confidence,
            lesson=taught,
            trajectory=outcome.trajectory,
            facts={
                "times_s": list(look.times_s),
                "window": window.key,
                "model": self.engine.model.digest,
                "adapter": outcome.adapter_digest,
            },
        )

    def _count(self, learn: bool) -> None:
        """After enough pseudo-labels, ask for an update; the cold start only collects."""
        config = self._service.config
        with self._counter:
            self._num_labels += 1
            self._since_update += 1
            due = self._num_labels >= config.cold_start and self._since_update >= config.update_every
            if due and learn and self.updates is not None and self.updates.request():
                self._since_update = 0

    def _count_labels(self) -> int:
        if self.memory is None:
            return 0
        try:
            return self.memory.num_lessons(self._names)
        except MemoryFault:
            return 0

    def _open_memory(self) -> tuple[Memory | None, str]:
        if self.engine.encoder is None:
            return None, f"encoder: {self.engine.encoder_fault}"
        service = self._service
        try:
            memory = Memory(
                service.state_dir, service.config, width=self.engine.embedding_width, encoder=self.engine.encoder.digest
            )
        except MemoryFault as fault:
            log.error("answers are model-only: %s", fault)
            return None, str(fault)
        return memory, ""

    def re_embed_outdated(self, stop: threading.Event) -> int:
        """Give experiences of an earlier encoder this one's embeddings; returns how many. Runs in the background."""
        if self.memory is None:
            return 0
        return re_embed_outdated(self.memory, self.engine, self.batcher, stop, self.not_re_embedded)

    # --- what it is and what it learns

    def updates_or_refuse(self) -> Updates:
        """The updates.

        Raises:
            EnvironmentFault: there is no buffer to learn from.
        """
        if self.updates is None:
            raise EnvironmentFault(f"nothing can be learned ({self.memory_fault}).", remedy="Mend the buffer, restart.")
        return self.updates

    def status(self, num_updates: int) -> dict[str, Any]:
        """Model, adapter, updates with their canary figures, buffer."""
        records: Sequence[UpdateRecord] = self.ledger.records
        try:
            buffer: dict[str, Any] = self.memory.stats() if self.memory is not None else {"fault": self.memory_fault}
        except MemoryFault as fault:
            buffer = {"fault": str(fault)}
        model = self.engine.model
        return {
            "model_digest": model.digest,
            "provenance": model.provenance,
            "labels": list(model.labels),
            "question": self.default_question(),
            "anchor_digest": model.anchor_digest,
            "adapter_digest": self.engine.adapter_digest,
            "adapter_history": list(self.store.history),
            "read_only": self._service.held.read_only,
            "num_pseudo_labels": self._num_labels,
            "updates_by_status": {
                status: sum(record.status == status for record in records)
                for status in sorted({record.status for record in records})
            },
            "updates": [record.model_dump(mode="json") for record in records[-num_updates:]],
            "update_queue": self.updates.state() if self.updates is not None else None,
            "not_re_embedded": dict(list(self.not_re_embedded.items())[:SHOWN_LEFT]),
            "num_not_re_embedded": len(self.not_re_embedded),
            "buffer": buffer,
        }

    def close(self) -> None:
        """End updates, finish the batch under way, close the buffer."""
        if self.updates is not None:
            self.updates.close()
        self.batcher.close()
        if self.memory is not None:
            self.memory.close()
