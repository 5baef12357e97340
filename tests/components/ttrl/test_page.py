"""The service's own page: what its script asks for is there, and its policy lets exactly that script run."""

from __future__ import annotations

import base64
import hashlib
import re

from components.ttrl.page import PAGE, POLICY


def test_the_script_finds_every_element_that_it_asks_for() -> None:
    asked = set(re.findall(r"\$\(\"([a-z]+)\"\)", PAGE))
    assert asked >= {"media", "question", "start", "key", "answer", "learned"}
    assert asked <= set(re.findall(r'id="([a-z]+)"', PAGE))
    labelled = set(re.findall(r'<label for="([a-z]+)"', PAGE))
    assert labelled == set(re.findall(r'<(?:input|textarea) id="([a-z]+)"', PAGE)), "every field has its label"


def test_the_policy_names_the_script_and_the_style_as_they_are() -> None:
    for tag in ("script", "style"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in POLICY
    assert not re.search(r"\son[a-z]+=|\sstyle=", PAGE), "the policy would block an inline handler or style"


def test_times_on_the_page_have_one_decimal() -> None:
    """2 and 4.6 seconds are told alike: no time is shown as the number that JSON has."""
    assert not re.search(r"\$\{[^}]*_s\}", PAGE)
