"""The environment with a scripted policy and the real operations registry on real pixels."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from components.shared.learning.episode import Episode, SourceFrames, Task, run_episodes
from components.shared.operations import default_registry
from components.shared.policy.interface import Conversation, Generation, Message
from components.shared.samples.clip import Clip, ClipMeta
from components.shared.samples.jpeg import encode_jpeg

ANSWER = '{"value": "diagonal"}'


def zoom(box: list[int], frame: int = 0) -> str:
    return json.dumps({"name": "ZOOM_IN", "arguments": {"frame": frame, "box": box}})


def frames() -> list[np.ndarray]:
    """Two frames of 448x336 whose every 4x4 cell has its own grey; the second is 100 brighter."""
    grey = (np.arange(16).reshape(4, 4) * 8).repeat(84, 0).repeat(112, 1).astype(np.uint8)
    return [np.repeat((grey + extra)[..., None], 3, axis=2) for extra in (0, 100)]


def task(make: Any, **changes: Any) -> Task:
    values = {
        "question": make.question(),
        "conversation": (Message("user", "Which pattern?"),),
        "source_frames": frames(),
    }
    return Task(**{**values, **changes})


def run(make: Any, say: Any, tasks: list[Task], **changes: Any) -> list[Episode]:
    options = {"temperature": 1.0, "max_turns": 3, "max_new_tokens": 48, "seed": 5, **changes}
    return run_episodes(make.policy(say), tasks, default_registry(), **options)


def looks_then_answers(conversation: Conversation) -> str:
    return ANSWER if conversation[-1].role == "tool" else zoom([250, 250, 500, 500], frame=1)


def test_a_call_is_executed_on_source_pixels_and_its_image_shown(make: Any) -> None:
    (episode,) = run(make, looks_then_answers, [task(make)])
    assert [message.role for message in episode.messages] == ["user", "assistant", "tool", "assistant"]
    (image,) = episode.messages[2].images
    assert image.shape == (112, 112, 3)
    assert image[56, 56].tolist() == [5 * 8 + 100] * 3, "cell (1, 1) of frame 1"
    assert episode.answer == {"value": "diagonal"}
    assert episode.calls[0].ok
    assert episode.calls[0].arguments == {"frame": 1, "box": [250, 250, 500, 500]}
    assert episode.well_formed == (True, True)
    assert not episode.truncated
    assert not episode.last_call_failed
    assert episode.num_tokens == 4


def test_messages_carry_the_sampled_tokens_so_that_they_are_scored_as_sampled(make: Any) -> None:
    said = Generation(ANSWER, (7, 8, 9), (-0.1, -0.2, -0.3), True)
    (episode,) = run(make, lambda _: said, [task(make)])
    assert episode.messages[-1].token_ids == (7, 8, 9)
    assert episode.messages[-1].learn


def test_a_failed_call_is_shown_and_recorded_not_raised(make: Any) -> None:
    say = lambda c: ANSWER if c[-1].role == "tool" else zoom([0, 0, 250, 250], frame=99)
    (episode,) = run(make, say, [task(make)])
    assert not episode.calls[0].ok
    assert "frame 99" in episode.messages[2].text
    assert episode.calls[0].error == episode.messages[2].text
    assert episode.messages[2].images == ()
    assert episode.last_call_failed
    assert episode.answer == {"value": "diagonal"}


@pytest.mark.parametrize(
    ("text", "answer", "strict"),
    [
        (ANSWER, {"value": "diagonal"}, True),
        (f"```json\n{ANSWER}\n```", {"value": "diagonal"}, False),
        ('{"value": "purple"}', None, False),
        ("I see nothing", None, False),
        ("", None, False),
    ],
)
def test_anything_but_a_call_ends_the_episode(make: Any, text: str, answer: Any, strict: bool) -> None:
    (episode,) = run(make, lambda _: text, [task(make)])
    assert episode.answer == answer
    assert episode.well_formed == (strict,)
    assert len(episode.messages) == 2
    assert not episode.truncated


def test_labels_bound_what_an_operation_answer_may_say(make: Any) -> None:
    text = '{"operation": "Dancing", "start_s": 0.5, "end_s": 2.0, "next_operation": null}'
    asked = {"question": make.question("operation")}
    (free,) = run(make, lambda _: text, [task(make, **asked)])
    (bound,) = run(make, lambda _: text, [task(make, **asked, labels=("Picking",))])
    assert free.answer is not None
    assert bound.answer is None


def test_the_turn_limit_ends_an_episode_that_only_calls(make: Any) -> None:
    (episode,) = run(make, lambda _: zoom([0, 0, 250, 250]), [task(make)], max_turns=2)
    assert len(episode.calls) == 2
    assert episode.truncated
    assert episode.answer is None


def test_a_cut_message_ends_the_episode_and_is_not_learned_even_where_it_parses(make: Any) -> None:
    (episode,) = run(make, lambda _: Generation(ANSWER, (1,), (-0.1,), False), [task(make)])
    assert episode.truncated
    assert episode.answer is None
    assert not episode.messages[-1].learn
    assert episode.well_formed == (False,)


def test_a_forced_opening_is_continued_by_the_policy_and_marked(make: Any) -> None:
    start = '{"name": "ZOOM_IN", "arguments": {"frame": '
    say = lambda c: ANSWER if c[-1].role == "tool" else '1, "box": [0, 0, 250, 250]}}'
    forced, free = run(make, say, [task(make, opening=start), task(make)])
    assert forced.forced
    assert forced.calls[0].forced
    assert forced.calls[0].arguments == {"frame": 1, "box": [0, 0, 250, 250]}
    assert [(m.forced, m.token_ids) for m in forced.messages if m.role == "assistant"] == [(1, (9, 1, 2)), (0, (1, 2))]
    assert forced.answer == {"value": "diagonal"}
    assert forced.num_tokens == 4, "the forced token was not sampled"
    assert not free.forced
    assert free.calls == ()


def test_an_opening_the_policy_does_not_finish_well_is_no_call(make: Any) -> None:
    (episode,) = run(make, lambda _: "and so on", [task(make, opening='{"name": ')])
    assert episode.forced
    assert episode.calls == ()
    assert episode.answer is None


def test_episodes_are_batched_by_turn_and_keep_their_order(make: Any) -> None:
    def say(conversation: Conversation) -> str:
        wants = int(conversation[0].text)
        looked = sum(message.role == "tool" for message in conversation)
        return zoom([0, 0, 250, 250], frame=looked % 2) if looked < wants else ANSWER

    tasks = [task(make, conversation=(Message("user", str(wants)),)) for wants in (2, 0, 1, 0, 2)]
    policy = make.policy(say)
    options = {"temperature": 1.0, "max_turns": 4, "max_new_tokens": 8}
    episodes = run_episodes(policy, tasks, default_registry(), seed=1, **options)
    assert [len(episode.calls) for episode in episodes] == [2, 0, 1, 0, 2]
    assert policy.batches == [5, 3, 2]
    assert len(set(policy.seeds)) == 3
    small = make.policy(say)
    run_episodes(small, tasks, default_registry(), seed=1, batch_size=2, **options)
    assert small.batches == [2, 2, 1, 2, 1, 2]
    assert len(set(small.seeds)) == 6, "no two batches share their noise"


def test_source_frames_are_decoded_only_when_touched() -> None:
    meta = ClipMeta(
        clip_id="c", recording_id="r", subject="p", session="s", split="train", window="sliding", start_s=0,
        duration_s=5, frame_times_s=(0.0, 2.5), frame_labels=("a", "a"), frame_phases=(0.0, 0.5), operation="a",
        segment_s=(0.0, 5.0), next_operation=None, has_boundary=False, sampler="uniform", provenance="synthetic",
    )  # fmt: skip
    source = SourceFrames(Clip(meta, b"", (encode_jpeg(frames()[0]), b"not a jpeg")))
    assert len(source) == 2
    assert source[0].shape == (336, 448, 3)
    with pytest.raises(IndexError):
        source[2]
    broken = default_registry().execute("ZOOM_IN", {"frame": 1, "box": [0, 0, 500, 500]}, source)
    assert not broken.ok
