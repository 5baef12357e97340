"""Which adapter answers: restored at the start, swapped by updates, taken back by operators.

Role: brings the adapter store (what is published), the ledger (what happened) and the engine (what is in memory)
together. Swaps run between two batches, so every request is answered wholly by one adapter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.runtime.errors import ArtifactError, EnvironmentFault, PixelisError
from components.ttrl.batching import Batcher
from components.ttrl.guard import AdapterStore, Ledger, Status, UpdateRecord

if TYPE_CHECKING:
    from components.ttrl.engine import Engine, Outcome

log = logging.getLogger(__name__)
SWAP_TIMEOUT_S = 600.0


class ServingAdapters:
    """See the module."""

    def __init__(self, engine: Engine, batcher: Batcher[Any, Any], store: AdapterStore, ledger: Ledger) -> None:
        self._engine, self._batcher, self._store, self._ledger = engine, batcher, store, ledger

    def restore(self) -> None:
        """Serve with the adapter that served last; one that cannot be loaded is rolled back."""
        if self._store.retired:
            self._note("retired", "a newly promoted model retires the adapter of the old one", self._store.retired)
        while self._store.current:
            digest = self._store.current
            try:
                self.swap(self._store.directory(digest), digest)
                return
            except (PixelisError, OSError) as error:
                log.error("adapter %s cannot be loaded: %s", digest[:12], error)
                self._store.rollback()
                self._note("rolled_back", "the adapter cannot be loaded", digest)

    def swap(self, folder: Path | None, digest: str) -> None:
        """Put an adapter into memory between two batches; None is the promoted one."""
        swapped = self._batcher.exclusive(lambda: self._engine.swap_adapter(folder, digest))
        try:
            swapped.result(SWAP_TIMEOUT_S)
        except TimeoutError:
            if not swapped.cancel():  # it has begun, so it ends: a swap given up must not happen afterwards
                swapped.result()
                return
            raise EnvironmentFault(
                f"adapter {digest[:12]} was not put into service within {SWAP_TIMEOUT_S:g} s, so the one in use stays."
            ) from None

    def rollback(self) -> str:
        """Serve with the adapter before the present one; returns its digest. A damaged one is passed over.

        Raises:
            InputError: the promoted adapter serves already.
        """
        with self._store.lock:
            before = self._engine.adapter_digest
            digest = self._store.rollback()
            while digest:
                try:
                    self.swap(self._store.directory(digest), digest)
                    break
                except (ArtifactError, OSError) as error:
                    log.error("adapter %s cannot be loaded: %s", digest[:12], error)
                    digest = self._store.rollback()
            else:
                self.swap(None, "")
            self._note("rolled_back", "asked for by an operator", before)
        return self._engine.adapter_digest

    def _note(self, status: Status, reason: str, before: str) -> None:
        self._ledger.append(
            UpdateRecord(
                update_id="",
                at=time.time(),
                status=status,
                reason=reason,
                model_digest=self._engine.model.digest,
                adapter_before=before,
                adapter_after=self._store.current or self._engine.model.anchor_digest,
            )
        )


def of_one_adapter(asks: Sequence[Any], ask: Callable[[Sequence[Any]], list[Outcome]]) -> list[Outcome]:
    """Answers wholly of one adapter: those from before a swap are asked for again."""
    outcomes = ask(asks)
    digest = outcomes[-1].adapter_digest
    while stale := [n for n, one in enumerate(outcomes) if one.adapter_digest != digest]:
        again = ask([asks[n] for n in stale])
        for n, one in zip(stale, again, strict=True):
            outcomes[n] = one
        digest = again[-1].adapter_digest
    return outcomes
