import numpy as np
import pytest
import torch

from components.shared.policy.interface import Message
from components.shared.policy.layout import Layout
from components.shared.runtime.errors import InputError


def conversation(question, frames):
    return (
        question(3),
        Message("assistant", "Close Box", learn=False),
        Message("tool", "frame 2", images=frames(1, 112)),
        Message("assistant", "Picking"),
    )


def words(policy, encoded):
    return [policy.codec.decode([number]) or "*" for number in encoded.ids]


def test_only_the_learned_message_and_its_end_of_turn_are_learned(shared_policy, question, frames):
    encoded = shared_policy.layout.encode(conversation(question, frames))
    learned = encoded.ids[encoded.learn].tolist()
    assert learned == [*shared_policy.codec.encode("Picking"), shared_policy.codec.turn_end]


def test_token_by_token(shared_policy, question):
    encoded = shared_policy.layout.encode((question(2, "Picking"), Message("assistant", "Box")))
    codec = shared_policy.codec
    expected = [
        (codec.turn_start, False), (*codec.encode("user\n"), False),
        (*codec.encode("0.0"), False), (codec.image, False), (*codec.encode("0.3"), False), (codec.image, False),
        (*codec.encode("Picking"), False), (codec.turn_end, False), (*codec.encode("\n"), False),
        (codec.turn_start, False), (*codec.encode("assistant\n"), False),
        (*codec.encode("Box"), True), (codec.turn_end, True),
    ]  # fmt: skip
    assert list(zip(encoded.ids.tolist(), encoded.learn.tolist())) == expected


def test_sampled_tokens_are_used_as_they_are(shared_policy, question):
    ids = (*shared_policy.codec.encode("B"), *shared_policy.codec.encode("ox"), shared_policy.codec.turn_end)
    assert ids[:-1] != shared_policy.codec.encode("Box")
    encoded = shared_policy.layout.encode((question(1), Message("assistant", "Box", token_ids=ids)))
    assert tuple(encoded.ids[encoded.learn]) == ids


def test_a_cut_turn_is_closed_without_learning_its_end(shared_policy, question):
    cut = shared_policy.codec.encode("Box")
    encoded = shared_policy.layout.encode(
        (question(1), Message("assistant", "Box", token_ids=cut), Message("user", "x"))
    )
    assert tuple(encoded.ids[encoded.learn]) == cut
    after = np.flatnonzero(encoded.learn)[-1] + 1
    assert encoded.ids[after] == shared_policy.codec.turn_end


def test_generation_ends_with_the_assistants_header(shared_policy, question):
    encoded = shared_policy.layout.encode((question(1),), generate=True)
    assert tuple(encoded.ids[-2:]) == (shared_policy.codec.turn_start, *shared_policy.codec.encode("assistant\n"))
    assert not encoded.learn.any()


@pytest.mark.parametrize("markers", [True, False])
def test_positions_are_those_of_transformers(shared_policy, question, frames, markers):
    layout = Layout(shared_policy.codec, shared_policy.patching, image_markers=markers)
    encoded = layout.encode(conversation(question, frames))
    grids = [(1, *shared_policy.patching.grid(*image.shape[:2])) for image in encoded.images]
    expected, delta = shared_policy.model.model.get_rope_index(
        torch.from_numpy(encoded.ids)[None],
        mm_token_type_ids=torch.from_numpy(encoded.is_image.astype(np.int32))[None],
        image_grid_thw=torch.tensor(grids),
    )
    assert np.array_equal(encoded.positions, expected[:, 0].numpy())
    assert encoded.next_position == len(encoded.ids) + int(delta)


def test_a_system_text_comes_first_unless_one_is_given(shared_policy, question):
    layout = Layout(shared_policy.codec, shared_policy.patching, image_markers=False, system="Picking")
    first = layout.encode((question(1),)).ids[:3]
    codec = shared_policy.codec
    assert tuple(first) == (codec.turn_start, *codec.encode("system\n"), *codec.encode("Picking"))
    given = layout.encode((Message("system", "Box"), question(1)))
    assert tuple(given.ids[:3]) == (codec.turn_start, *codec.encode("system\n"), *codec.encode("Box"))


@pytest.mark.parametrize("image", [np.zeros((56, 56), np.uint8), np.zeros((56, 56, 3), np.float32)])
def test_a_wrong_image_is_refused(shared_policy, image):
    with pytest.raises(InputError, match="cannot be shown"):
        shared_policy.layout.encode((Message("user", "x", images=(image,), image_times_s=(0.0,)),))


def test_images_that_conversations_share_are_digested_once_and_equal_ones_get_equal_keys(
    shared_policy, question, frames, monkeypatch
):
    from components.shared.policy import layout

    asked, other = question(3), question(3)
    talks = [(asked, Message("assistant", "Box")), (asked, Message("tool", "", images=frames(1))), (other,)]
    alone = [shared_policy.layout.encode(talk) for talk in talks]
    digested = []
    real = layout.image_key
    monkeypatch.setattr(layout, "image_key", lambda image: digested.append(id(image)) or real(image))
    together = shared_policy.layout.encode_all(talks)
    assert len(digested) == len(set(digested)) == 7
    for one, same in zip(alone, together, strict=True):
        assert one.ids.tolist() == same.ids.tolist()
        assert one.image_keys == same.image_keys == tuple(map(real, one.images))
