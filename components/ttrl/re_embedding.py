"""Gives stored experiences the present encoder's embeddings, one between two batches, in the background."""

from __future__ import annotations

import contextlib
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from components.ttrl.batching import Batcher
from components.ttrl.memory import Memory, MemoryFault, Stored
from components.ttrl.watching import view_of

if TYPE_CHECKING:
    from components.ttrl.engine import Engine

log = logging.getLogger(__name__)


def re_embed_outdated(
    memory: Memory, engine: Engine, batcher: Batcher[Any, Any], stop: threading.Event, left: dict[str, str]
) -> int:
    """Embed what another encoder embedded; returns how many.

    An experience that cannot be read, decoded or embedded keeps its old embedding and is passed over; the next start
    tries it again.

    Args:
        memory: The experiences.
        engine: The encoder.
        batcher: The engine's thread.
        stop: Set when the service ends.
        left: Receives the id of each experience that was passed over, with the kind of error.
    """
    count = 0
    try:
        for identity in memory.outdated():
            if stop.is_set():
                break
            try:
                visual, text = _embedded(memory.stored(identity), engine, batcher)
            except KeyError:  # erased or evicted meanwhile
                continue
            except Exception as error:  # decoders raise what they like; their words may quote the frame
                left[identity] = type(error).__name__
                log.warning("experience %s is not embedded anew: %s", identity, type(error).__name__)
                continue
            with contextlib.suppress(KeyError):
                memory.re_embed(identity, visual, text)
                count += 1
    except MemoryFault as error:
        log.warning("re-embedding stopped after %d experiences, until the next start: %s", count, error)
    if count:
        log.info("%d experiences were embedded anew by the present encoder", count)
    return count


def _embedded(item: Stored, engine: Engine, batcher: Batcher[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    view = view_of(item.jpegs, engine.model.view_size)
    return batcher.exclusive(partial(engine.embed, view, item.times_s, item.question)).result()
