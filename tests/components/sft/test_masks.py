"""The loss mask of whole trajectories, token by token, on the tokenizer's own output."""

from components.sft.material import read_lessons
from components.shared.policy.prompts import conversation_of, turn_text
from components.shared.samples.trajectory_shards import read_trajectories


def expected(policy, trajectory, images_of_tool):
    """(token, learned) of a trajectory, put together from its parts: headers, stamps, images, words, results."""
    codec, plain = policy.codec, []
    say = lambda ids, learned=False: plain.extend((number, learned) for number in ids)
    say([codec.turn_start, *codec.encode("user\n")])
    for time in trajectory.frame_times_s:
        say([*codec.encode(f"{time:.1f}"), codec.image])
    say([*codec.encode(trajectory.question.text), codec.turn_end, *codec.encode("\n")])
    for turn in trajectory.turns:
        last = turn is trajectory.turns[-1]
        say([codec.turn_start, *codec.encode("assistant\n")])
        say([*codec.encode(turn_text(turn, trajectory.frame_times_s)), codec.turn_end], turn.learn)
        say([] if last else codec.encode("\n"))
        if turn.result is not None:
            say([codec.turn_start, *codec.encode("user\n"), *codec.encode("<tool_response>")])
            say([codec.image] * images_of_tool)
            say([*codec.encode(turn.result.text), *codec.encode("</tool_response>"), codec.turn_end])
            say(codec.encode("\n"))
    return plain


def test_every_token_of_every_trajectory(material, policy):
    kinds = set()
    lessons = read_lessons(material / "trajectories", "train", 100, policy.layout.encode)
    rows = {row.images[0].tobytes(): row for row in lessons.upto(2)}
    for trajectory, view, _ in read_trajectories(material / "trajectories", "train"):
        encoded = rows[view[0].tobytes()]
        wanted = expected(policy, trajectory, images_of_tool=policy.patching.num_tokens(112, 112))
        assert list(zip(encoded.ids.tolist(), encoded.learn.tolist(), strict=True)) == wanted
        kinds.add(tuple(turn.learn for turn in trajectory.turns))
    assert kinds == {(True,), (True, True), (False, True)}, "answers alone, after a look, after a wrong look"


def test_only_learned_tokens_move_the_loss(material, policy):
    """Another wrong call, tool text or question changes nothing that the loss covers but what it is conditioned on."""
    from dataclasses import replace

    talks = (conversation_of(*found) for found in read_trajectories(material / "trajectories", "train"))
    talk = next(item for item in talks if any(m.role == "assistant" and not m.learn for m in item))
    silent = tuple(replace(m, learn=False) if m.role == "assistant" else m for m in talk)
    _, mask = policy.token_logprobs([talk])
    learned = policy.codec.encode(talk[-1].text)
    assert int(mask.sum()) == len(learned) + 1
    assert policy.token_logprobs([silent])[1].sum() == 0
