"""What is taken out of a question, and what is left in."""

import pytest

from components.ttrl.redaction import redact_text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("write to a.b+c@mail.example.org now", "write to [e-mail] now"),
        ("see https://example.org/x?token=1", "see [url]"),
        ("from 192.168.0.17 and fe80:0:0:1:2:3:4:5", "from [address] and [address]"),
        ("call +49 (170) 123-4567", "call [number]"),
        ("card 4111 1111 1111 1111", "card [number]"),
        ("account DE89 3704 0044 0532 0130 00.", "account [account]."),
        (
            "Which operation between 0.3 and 4.96 s, frame 8 of 16?",
            "Which operation between 0.3 and 4.96 s, frame 8 of 16?",
        ),
        ("box [250, 0, 500, 250]", "box [250, 0, 500, 250]"),
        ("order 12345", "order 12345"),
    ],
)
def test_redact_text(text, wanted):
    assert redact_text(text) == wanted
