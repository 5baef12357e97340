"""`GET /`: a page to ask a question by hand and to see what the service has learned; the rest of it is page.html.

Guarantee: the page may run its own script and style, named by their digests, and speak to its own service, no more.
It holds no data; what it shows it asks for with the visitor's key.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")


def _digest(tag: str) -> str:
    [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_digest('script')}; style-src {_digest('style')}; connect-src 'self'; "
    "img-src blob:; media-src blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy."""
