"""Memory is the same whether what was stored is read after each entry or only at the end."""

import numpy as np
import pytest

from components.ttrl.buffer import BufferConfig, Experience, IndexConfig, digest_of
from components.ttrl.buffer.arrivals import MOST
from components.ttrl.buffer.identity import key_of
from components.ttrl.buffer.log.frame import Found, Kind, entry
from components.ttrl.buffer.record import encode
from components.ttrl.buffer.rows import WHOLE
from components.ttrl.buffer.state import PATCH, REMOVE, State
from components.ttrl.buffer.vectors import hybrid

DIMENSION = 4
IMAGES = [bytes([i]) * 50 for i in range(5)]


def entries(generator, count):
    """A log of new records, newer versions, changed numbers, removals and frames, in no particular order."""
    known = []
    for number in range(count):
        kind = generator.choice(["new", "new", "new", "newer", "patch", "remove", "frame"]) if known else "new"
        if kind == "frame":
            image = IMAGES[generator.integers(len(IMAGES))]
            yield entry(Kind.BLOB, bytes.fromhex(digest_of(image)) + image)
            continue
        identity = known[generator.integers(len(known))] if kind != "new" else None
        if kind == "patch":
            yield entry(Kind.PATCH, PATCH.pack(key_of(identity), number, np.nan, 0.5, number, 7, 3, 0))
        elif kind == "remove":
            yield entry(Kind.REMOVE, REMOVE.pack(key_of(identity), number, 0, 0))
        else:
            vectors = generator.standard_normal((2, DIMENSION)).astype(np.float32)
            which = generator.integers(3)
            made = Experience(
                question=f"q{number}", visual=vectors[0] if which != 1 else None, text=vectors[1] if which else None,
                source=f"s{generator.integers(4)}", label=f"l{generator.integers(3)}", created_s=number,
                frames=[digest_of(image) for image in IMAGES[: generator.integers(3)]] if number % 5 == 0 else (),
            )  # fmt: skip
            if identity is not None:
                made.id = identity
            else:
                known.append(made.id)
            yield entry(Kind.EXPERIENCE, encode(made, DIMENSION, origin=11 if kind == "newer" else 0))


def found(items):
    return [
        Found(item.kind, item.group, number, number << 20, item.body, item.body_crc)
        for number, item in enumerate(items, 1)
    ]


def picture(state):
    """All that a state says, by key."""
    rows = state.rows
    slots = dict(rows.slot_of)
    assert sorted(slots.values()) == rows.live().tolist()
    records = {
        key: (
            slot, rows.table[slot : slot + 1].view(WHOLE).tobytes(), state.vectors.read(np.array([slot])).tobytes(),
            [rows.names[name].texts[rows.columns[name][slot]] for name in rows.names],
            state.frames.of_slot.get(slot), sorted(state.shadow.get(key, ())),
        )
        for key, slot in slots.items()
    }  # fmt: skip
    return records, state.record_bytes, state.live_bytes, set(state.frames.blobs), set(state.fresh)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(4))
def test_reading_late_is_reading_at_once(metric, seed):
    config = BufferConfig(dimension=DIMENSION, index=IndexConfig(metric=metric))
    log = found(entries(np.random.default_rng(seed), 3 * MOST))
    once, late, whole = State(config), State(config), State(config)
    for item in log:
        once.apply([item])
        assert len(once.rows) == int(once.rows.alive.sum())
        late.apply([item])
    whole.apply(log)
    assert picture(once) == picture(late) == picture(whole)


def test_a_record_reads_back_as_it_was_given():
    state = State(BufferConfig(dimension=DIMENSION))
    vectors = np.random.default_rng(0).standard_normal((2, DIMENSION)).astype(np.float32)
    given = Experience(question="?", visual=vectors[0], text=vectors[1], source="s", subject="p", label="l", reward=2.5)
    item = entry(Kind.EXPERIENCE, encode(given, DIMENSION))
    state.apply([Found(item.kind, 0, 9, 1 << 40, item.body, item.body_crc)])
    assert len(state.slot_of) == 1
    rows = state.rows
    assert rows.alive[0] and rows.key(0) == key_of(given.id)
    assert (rows.sequence[0], rows.address[0], rows.reward[0], rows.origin[0]) == (9, 1 << 40, 2.5, item.body_crc)
    assert [rows.names[name].texts[rows.columns[name][0]] for name in ("source", "subject", "label")] == ["s", "p", "l"]
    assert np.allclose(state.vectors.read(np.array([0]))[0], hybrid(*vectors))
