"""A crash at any byte of any write, with whatever un-synced part on the device: what was acknowledged is there,
right, once."""

import shutil

import numpy as np
import pytest
from conftest import SOAK
from simulated_disk import FastDisk, Image, RecordingDisk

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer


def view(buffer):
    """id -> everything that must be right."""
    result = {}
    for identity in buffer.ids():
        e = buffer.get(identity)
        result[identity] = (e.question, e.label, e.confidence, e.retrieval_count, e.visual.tobytes(),
                            tuple(buffer.frames(identity)))  # fmt: skip
    return result


def workload(root, make, *, preallocate):
    """A run with appends, frames, updates, removals, evictions, snapshots, compaction, erasure and a restart."""
    disk = RecordingDisk(root)
    config = BufferConfig(
        dimension=4, segment_bytes=4096, preallocate=preallocate, background=False, capacity_records=14,
        eviction="oldest", min_free_bytes=0,
    )  # fmt: skip
    ids, number = [], 0

    def acknowledged():
        disk.mark(view(buffer))

    buffer = ExperienceBuffer.open(root, config, disk=disk)
    disk.mark({})
    for step in range(46):
        if step == 23:
            buffer.close()
            disk.mark(disk.calls[-1][1] if disk.calls[-1][0] == "mark" else None)
            buffer = ExperienceBuffer.open(root, config, disk=disk)
        live = buffer.ids()
        if step % 6 in (0, 1, 2) or len(live) < 3:
            experience = make(number, subject=f"person{number % 2}")
            number += 1
            buffer.append(experience, [b"frame %d" % (number % 4) * 5] if step % 2 else [])
            ids.append(experience.id)
        elif step % 6 == 3:
            buffer.update(live[step % len(live)], confidence=(step % 10) / 10)
        elif step % 6 == 4:
            buffer.update(live[step % len(live)], label=f"changed {step}")
        else:
            buffer.remove(live[step % len(live)])
        acknowledged()
        if step % 8 == 7:
            buffer.snapshot()
        if step % 14 == 13:
            buffer.compact(everything=True)
            acknowledged()
        if step == 37:
            buffer.erase(subjects=["person1"])
            acknowledged()
    buffer.close()
    return disk.calls, config


def judge(root, config, before, after, *, write=True):
    """Open a replayed directory: everything both states agree on is there; the rest is as before or as after."""
    with ExperienceBuffer.open(root, config, disk=FastDisk()) as buffer:
        found = view(buffer)
        for identity in before.keys() | after.keys() | found.keys():
            allowed = {before.get(identity), after.get(identity)}
            assert found.get(identity) in allowed, f"{identity}: {found.get(identity)} is not one of {allowed}"
        extra = found.keys() - before.keys()
        assert extra <= after.keys()
        neighbours = [n.id for n in buffer.search_knn(np.ones(4), len(found) + 5)]
        assert set(neighbours) == found.keys() and len(neighbours) == len(found)
        late = Experience(question="after the crash", visual=np.ones(4))
        if write and len(found) < config.capacity_records:
            buffer.append(late)  # and it can be written to
            assert view(buffer).keys() == found.keys() | {late.id}


def marks(calls):
    """For each call, the last acknowledged state before it and the next one after it."""
    states, last = [], {}
    for call in calls:
        if call[0] == "mark" and call[1] is not None:
            last = call[1]
        states.append(last)
    following, upcoming = [None] * len(calls), states[-1]
    for i in range(len(calls) - 1, -1, -1):
        following[i] = upcoming
        if calls[i][0] == "mark" and calls[i][1] is not None:
            upcoming = calls[i][1]
    return states, following


def fresh(root):
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    return root


@pytest.mark.parametrize("preallocate", [False, True])
def test_every_cut(tmp_path, make, preallocate):
    """The power goes after every call, and inside writes at (every, or every 331st) byte."""
    calls, config = workload(tmp_path / "run", make, preallocate=preallocate)
    config = config.model_copy(update={"preallocate": False})
    states, following = marks(calls)
    image, root, cuts = Image(), tmp_path / "replay", 0
    for i, call in enumerate(calls):
        if call[0] == "mark":
            continue
        if call[0] == "write":
            data = call[3]
            step = 1 if SOAK else 1000 if preallocate else 331
            offsets = range(1 if SOAK else step // 2 + i % 7, len(data), step)
            for length in offsets:
                if data.strip(b"\0"):
                    image.write_to(fresh(root), partial=(*call[:3], data[:length]))
                    judge(root, config, states[i], following[i], write=cuts % 5 == 0)
                    cuts += 1
        image.apply(call)
        image.write_to(fresh(root))
        judge(root, config, states[i], following[i])
        cuts += 1
    assert cuts > 150


@pytest.mark.parametrize("preallocate", [False, True])
def test_unsynced_writes_dropped_torn_and_reordered(tmp_path, make, preallocate):
    """At every call: any subset of what was not synced has reached the device."""
    calls, config = workload(tmp_path / "run", make, preallocate=preallocate)
    config = config.model_copy(update={"preallocate": False})
    states, following = marks(calls)
    generator = np.random.default_rng(1)
    image, root = Image(), tmp_path / "replay"
    for i, call in enumerate(calls):
        if call[0] != "mark":
            for _ in range(20 if SOAK else 1):
                partial = call if call[0] == "write" else None
                image.write_to(fresh(root), partial=partial, generator=generator)
                judge(root, config, states[i], following[i])
            image.apply(call)
