"""Removes personal data from a question before anything of it is written (pure).

Role: the redaction hook of the experience buffer. E-mail and internet addresses, telephone, card and account numbers
become placeholders. What is answered is not affected: the policy sees the question as it was asked.

Not guaranteed: names and other free text, and faces in frames; frames are kept as they are until they are erased.
"""

from __future__ import annotations

import re
from dataclasses import replace

from components.ttrl.buffer import Experience

PATTERNS = (
    ("e-mail", re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")),
    ("url", re.compile(r"https?://\S+")),
    ("address", re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\b(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}\b")),
    ("account", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")),
    ("number", re.compile(r"(?<![\w.])\+?\d(?:[ ()/-]{0,2}\d){6,}(?!\w)")),
)


def redact_text(text: str) -> str:
    """The text with personal data replaced by its kind in brackets."""
    for name, pattern in PATTERNS:
        text = pattern.sub(f"[{name}]", text)
    return text


def redact(experience: Experience) -> Experience:
    """The experience as it may be stored."""
    return replace(experience, question=redact_text(experience.question))
