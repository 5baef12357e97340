"""The service in this process: buffer faults, restored and retired adapters, a model without an adapter."""

from __future__ import annotations

import shutil
import threading
import time

import numpy as np
import pytest
from ttrl_support import CHOICES, CLOSEUP, LABELS, video

from components.shared.runtime.errors import EnvironmentFault
from components.ttrl.answering import Asked
from components.ttrl.config import TtrlConfig
from components.ttrl.gating import Lesson
from components.ttrl.service import Service
from components.ttrl.watching import Media

CONFIG = TtrlConfig(rollouts=4, batch_wait_ms=1, frame_samplings=2)
QUESTION = "Which operation is under way, when does it start and end, and what comes next?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Media(video=video(tmp_path_factory.mktemp("media") / "clip.mp4"))


@pytest.fixture
def start():
    """Services that are closed at the end."""
    made = []

    def run(model, state, config=CONFIG):
        service = Service(config, model, state)
        made.append(service)
        service.start()
        while not service.readiness()[0]:
            assert not service.has_failed, service.readiness()
            time.sleep(0.05)
        return service

    yield run
    for service in made:
        service.close()


def ask(service, clip, **options):
    return service.predict(clip, QUESTION, Asked("tester", "trace", **options))


def test_a_close_up_question_is_answered_by_a_value(promoted, tmp_path, start, clip):
    service = start(promoted, tmp_path)
    answer = service.predict(clip, CLOSEUP, Asked("tester", "trace"))
    assert answer["answer"]["value"] in CHOICES
    assert answer["experience_id"]


def test_a_buffer_that_cannot_be_opened_costs_no_answer(promoted, tmp_path, start, clip):
    (tmp_path / "experiences-128").write_text("not a folder")
    service = start(promoted, tmp_path)
    answer = ask(service, clip)
    assert answer["answer"]["operation"] in LABELS
    assert answer["mode"] == "model-only"
    assert answer["degraded"].startswith("buffer: ")
    assert answer["experience_id"] is None
    assert "fault" in service.status()["buffer"]
    with pytest.raises(EnvironmentFault, match="feedback cannot be kept"):
        service.feedback("x", correct=True, answer=None, source="tester")
    with pytest.raises(EnvironmentFault, match="nothing can be learned"):
        service.resume(by="tester")


def test_a_buffer_that_fails_while_serving_costs_no_answer(promoted, tmp_path, start, clip):
    service = start(promoted, tmp_path)
    assert ask(service, clip)["mode"] == "full"
    service.require_ready().memory.close()
    answer = ask(service, clip)
    assert answer["answer"]["operation"] in LABELS
    assert (answer["mode"], answer["experience_id"]) == ("model-only", None)
    assert "BufferNotReadyError" in answer["degraded"]


def publish(service, promoted, tmp_path, scale):
    """Publish an adapter that differs from the promoted one, and put it into service."""
    from components.ttrl.model import adapter_digest

    replies = service.require_ready()
    policy = replies.engine.model.policy
    if not policy.has_adapter:
        policy.add_adapter(rank=4)
    original = policy.adapter_state()
    policy.set_adapter_state({name: tensor + scale for name, tensor in original.items()})
    digest = policy.save_adapter(tmp_path / f"candidate-{scale}")
    policy.set_adapter_state(original)
    folder = replies.store.publish(tmp_path / f"candidate-{scale}", digest, check=adapter_digest)
    replies.adapters.swap(folder, digest)
    return digest


def test_adapters_survive_a_restart_and_a_damaged_one_is_rolled_back(promoted, tmp_path, start, clip):
    state = tmp_path / "state"
    service = start(promoted, state)
    first, second = (publish(service, promoted, tmp_path, scale) for scale in (0.001, 0.002))
    assert ask(service, clip)["adapter_digest"] == second
    service.close()
    again = start(promoted, state)
    assert again.status()["adapter_digest"] == second
    assert again.require_ready().engine.model.policy.adapter_state()
    again.close()
    weights = state / "adapters" / second / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-40])
    mended = start(promoted, state)
    status = mended.status()
    assert status["adapter_digest"] == first
    assert status["updates"][-1]["status"] == "rolled_back"
    assert status["updates"][-1]["adapter_before"] == second


def test_a_base_without_adapter_serves_learns_and_goes_back(promoted, tmp_path, start, clip):
    model = tmp_path / "model"
    shutil.copytree(promoted, model)
    shutil.rmtree(model / "adapter")
    service = start(model, tmp_path / "state")
    plain = ask(service, clip, store=False)
    assert plain["adapter_digest"] == ""
    digest = publish(service, model, tmp_path, 0.3)
    assert ask(service, clip, store=False)["adapter_digest"] == digest
    service.rollback(by="tester")
    back = ask(service, clip, store=False)
    assert back["adapter_digest"] == ""
    assert back["votes"] == plain["votes"], "the same weights and the same seed give the same votes"


def test_another_model_retires_the_adapter_and_keeps_experiences(promoted, tmp_path, start, clip):
    state = tmp_path / "state"
    service = start(promoted, state)
    ask(service, clip)
    digest = publish(service, promoted, tmp_path, 0.001)
    service.close()
    model = tmp_path / "model"
    shutil.copytree(promoted, model)
    (model / "MODEL_CARD.md").write_text("another promotion")
    other = start(model, state)
    status = other.status()
    assert status["adapter_digest"] == status["anchor_digest"] != digest
    assert status["updates"][-1]["status"] == "retired"
    assert status["updates"][-1]["adapter_before"] == digest
    assert status["buffer"]["records"] == 1


def test_one_frame_that_cannot_be_decoded_does_not_end_re_embedding(promoted, tmp_path, start, clip):
    """Its experience is passed over, named in the status, and tried again at the next start; the others go on."""
    service = start(promoted, tmp_path)
    replies = service.require_ready()
    memory, width = replies.memory, replies.engine.embedding_width
    unit = np.eye(width, dtype=np.float32)

    def remember(seed, jpegs):
        return memory.remember(
            question=QUESTION, visual=unit[seed], text=unit[seed], source="s", trace_id="t", jpegs=jpegs,
            answer=None, votes=[], confidence=0.5, lesson=Lesson(None, (), 0.5), trajectory=[],
            facts={"times_s": [0.0] * len(jpegs)},
        )  # fmt: skip

    broken = [remember(0, [b"secret junk"]), remember(1, []), remember(2, [b"\xff\xd8\xff\xe0 cut"])]
    good = ask(service, clip)["experience_id"]
    memory._encoder = "the next encoder"
    assert replies.re_embed_outdated(threading.Event()) == 1
    assert memory.outdated() == broken
    status = service.status()
    assert status["num_not_re_embedded"] == 3
    assert sorted(status["not_re_embedded"]) == sorted(broken)
    assert "secret" not in str(status["not_re_embedded"])
    assert good not in memory.outdated()
