import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.policy.answers import parse_reply, validate
from components.shared.policy.prompts import answer_text, call_text
from components.shared.samples.trajectory import Call

LABELS = ("Picking", "Close Box")
GOOD = '{"operation": "Picking", "start_s": 0.3, "end_s": 3.7, "next_operation": "Close Box"}'
ANSWER = {"operation": "Picking", "start_s": 0.3, "end_s": 3.7, "next_operation": "Close Box"}

READABLE = {
    "strict": (GOOD, "strict"),
    "spaces around": (f"  {GOOD}\n", "strict"),
    "fenced": (f"Here you are:\n```json\n{GOOD}\n```\nDone {{", "fenced"),
    "fenced without a language": (f"```\n{GOOD}\n```", "fenced"),
    "first balanced object": (f"I think {GOOD} because {{", "object"),
    "braces inside a string": ('x {"operation": "Picking", "start_s": 0.3, "end_s": 3.7, '
                               '"next_operation": "Close Box", '
                               '"note": "a } b \\" {"} y', "object"),
    "fields": ("operation: Picking, start_s: 0.3, end_s: 3.7, next_operation: Close Box", "fields"),
    "cut at the end": (GOOD[:-2], "fields"),
    "other case": (GOOD.replace("Picking", "picking"), "strict"),
    "numbers as text": (GOOD.replace("0.3", '"0.3"'), "strict"),
}  # fmt: skip

UNREADABLE = {
    "empty": "",
    "prose": "the person is picking",
    "unknown label": GOOD.replace("Picking", "Dancing"),
    "unknown next": GOOD.replace("Close Box", "Dancing"),
    "reversed": GOOD.replace("0.3", "4.3"),
    "empty segment": GOOD.replace("0.3", "3.7"),
    "negative": GOOD.replace("0.3", "-1"),
    "after the clip": GOOD.replace("3.7", "5.4"),
    "not finite": GOOD.replace("3.7", "NaN"),
    "a boolean time": GOOD.replace("0.3", "true"),
    "a list": "[1, 2]",
    "no times": '{"operation": "Picking"}',
    "deep nesting": "{" * 5000,
    "a call without arguments": '{"name": "ZOOM_IN", "arguments": 3}',
}


@pytest.mark.parametrize("text, how", READABLE.values(), ids=READABLE.keys())
def test_readable(text, how):
    reply = parse_reply(text, labels=LABELS, duration_s=5.0)
    assert (reply.kind, reply.how, reply.answer) == ("answer", how, ANSWER)


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_is_said_and_nothing_is_invented(text):
    reply = parse_reply(text, labels=LABELS, duration_s=5.0)
    assert (reply.kind, reply.how, reply.answer, reply.call) == ("unparsed", "unparsed", None, None)
    assert reply.reason


@pytest.mark.parametrize("nothing", ["null", '"null"', '"None"', '""'])
def test_no_next_operation(nothing):
    reply = parse_reply(GOOD.replace('"Close Box"', nothing), labels=LABELS)
    assert reply.answer == ANSWER | {"next_operation": None}


def test_a_thought_is_taken_off():
    reply = parse_reply(f"<think>near the shelf</think>{GOOD}", labels=LABELS)
    assert (reply.thought, reply.how, reply.answer) == ("near the shelf", "strict", ANSWER)


def test_calls():
    call = Call(name="ZOOM_IN", arguments={"frame": 8, "box": [250, 0, 500, 250]})
    assert parse_reply(call_text(call)).call == call
    assert parse_reply(f"<think>closer</think>{call_text(call)}").thought == "closer"
    assert parse_reply(GOOD).call is None


@pytest.mark.parametrize(
    "text, answer",
    [('{"value": "diagonal"}', {"value": "diagonal"}), ('{"value": "DIAGONAL"}', {"value": "diagonal"}),
     ('{"value": "wavy"}', None), (GOOD, None), ("value = diagonal", {"value": "diagonal"})],
)  # fmt: skip
def test_close_up_values(text, answer):
    assert parse_reply(text, choices=("diagonal", "checker"), kind="closeup").answer == answer


def test_an_operation_question_is_not_answered_by_a_value():
    assert parse_reply('{"value": "diagonal"}', labels=LABELS, kind="operation").answer is None


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from('{}[]"\\:,`operatinscdvuxf0123456789.- \n')) | st.text())
def test_any_text_gives_a_reply(text):
    reply = parse_reply(text, labels=LABELS, choices=("diagonal",))
    assert reply.kind in ("answer", "call", "unparsed")
    assert (reply.answer is not None, reply.call is not None).count(True) == (reply.kind != "unparsed")


@pytest.mark.parametrize("value", [None, 7, b"x", ["a"]])
def test_anything_else_is_unparsed(value):
    assert parse_reply(value).kind == "unparsed"


def test_a_very_long_text_is_read_in_bounded_time():
    assert parse_reply('{"operation": ' * 200_000).kind == "unparsed"


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(LABELS),
    st.integers(0, 49),
    st.integers(1, 50),
    st.one_of(st.none(), st.sampled_from(LABELS)),
)
def test_what_is_written_is_read_back(label, start, length, following):
    answer = {"operation": label, "start_s": start / 10, "end_s": (start + length) / 10, "next_operation": following}
    reply = parse_reply(answer_text(answer), labels=LABELS)
    assert (reply.how, reply.answer) == ("strict", {**answer, "end_s": round(answer["end_s"], 1)})


def test_validate_says_what_is_wrong():
    answer, reason = validate({"operation": "Picking", "start_s": "x", "end_s": 1}, labels=LABELS)
    assert answer is None
    assert "not a number" in reason
