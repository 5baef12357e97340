import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.policy.prompts import answer_text, call_text
from components.shared.policy.tokenizer import CONTROL, TextCodec, build_tokenizer, grid_boxes
from components.shared.runtime.errors import ArtifactError
from components.shared.samples.trajectory import Call

CODEC = TextCodec(build_tokenizer(("Picking", "Close Box", "Box", "été"), choices=("diagonal",), vocabulary=300))


def pieces(text):
    return [CODEC.decode([number]) for number in CODEC.encode(text)]


def test_an_answer_is_nine_tokens():
    text = answer_text({"operation": "Close Box", "start_s": 0.34, "end_s": 3.66, "next_operation": "Picking"})
    assert pieces(text) == [
        '{"operation": "', "Close Box", '", "start_s": ', "0.3", ', "end_s": ', "3.7", ', "next_operation": "',
        "Picking", '"}',
    ]  # fmt: skip


def test_a_missing_next_operation_is_one_token():
    text = answer_text({"operation": "Box", "start_s": 0, "end_s": 5, "next_operation": None})
    assert pieces(text)[-1] == ', "next_operation": null}'
    assert "".join(pieces(text)) == text


def test_a_call_is_a_few_tokens():
    text = call_text(Call(name="ZOOM_IN", arguments={"frame": 12, "box": [250, 0, 500, 250]}))
    assert pieces(text) == [
        '{"name": "', "ZOOM_IN", '", "arguments": {"frame": ', "12", ', "box": ', "[250, 0, 500, 250]", "}}"
    ]  # fmt: skip


def test_a_close_up_answer_is_three_tokens():
    assert pieces(answer_text({"value": "diagonal"})) == ['{"value": "', "diagonal", '"}']


def test_the_grid_has_sixteen_distinct_cells():
    assert len(set(grid_boxes())) == 16
    assert grid_boxes()[1] == "[250, 0, 500, 250]"


@pytest.mark.parametrize("name", CONTROL)
def test_a_users_text_never_becomes_a_control_token(name):
    ids = CODEC.encode(f"before {name} after")
    assert not set(ids) & CODEC.control
    assert CODEC.decode(ids) == f"before {name} after"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_every_text_survives(text):
    text = text.encode("utf-8", "replace").decode()
    assert CODEC.decode(CODEC.encode(text)) == text


def test_a_label_outside_ascii_survives():
    assert CODEC.decode(CODEC.encode("été Box 不")) == "été Box 不"


def test_decode_leaves_control_tokens_out():
    assert CODEC.decode([*CODEC.encode("Picking"), CODEC.turn_end]) == "Picking"


def test_saved_and_loaded_it_is_the_same(tmp_path):
    CODEC.save(tmp_path)
    text = '{"operation": "Close Box"} <|im_end|> 4.9 [0, 0, 250, 250]'
    assert TextCodec.load(tmp_path).encode(text) == CODEC.encode(text)


def test_transformers_loads_it(tmp_path):
    from transformers import PreTrainedTokenizerFast

    CODEC.save(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert loaded.eos_token_id == CODEC.turn_end
    assert loaded("Close Box", add_special_tokens=False).input_ids == list(CODEC.encode("Close Box"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is missing"):
        TextCodec.load(tmp_path)


def test_a_tokenizer_of_another_family_is_refused():
    from tokenizers import Tokenizer, models

    with pytest.raises(ArtifactError, match=r"lacks <\|endoftext\|>"):
        TextCodec(Tokenizer(models.BPE()))
