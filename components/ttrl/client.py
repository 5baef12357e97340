"""A small HTTP client of the service, for the deployment's smoke test and for benchmarks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from components.shared.runtime.errors import EnvironmentFault
from components.shared.samples.clip import Clip


def ask_clip(
    client: httpx.Client, url: str, clip: Clip, question: str, *, store: bool, timeout_s: float = 60.0
) -> dict[str, Any]:
    """Ask about a clip with its own frames and times, so that the service sees what training and evaluation saw.

    Args:
        client: Reused between calls.
        url: The service's address.
        clip: Frames at source resolution and their times.
        question: The text.
        store: Whether the service may remember the question and learn from it.
        timeout_s: Longest wait.

    Raises:
        EnvironmentFault: the service does not answer, or answers with an error.
    """
    fields = {
        "times_s": json.dumps(list(clip.meta.frame_times_s)),
        "store": "true" if store else "false",
    }
    return ask(client, url, question, clip.source_jpegs, fields, timeout_s=timeout_s)


def ask(
    client: httpx.Client,
    url: str,
    question: str,
    jpegs: Sequence[bytes],
    fields: Mapping[str, str],
    *,
    timeout_s: float = 60.0,
) -> dict[str, Any]:
    """Ask about JPEG pictures; `fields` are further form fields.

    Raises:
        EnvironmentFault: the service does not answer, or answers with an error.
    """
    key = os.environ.get("PIXELIS_API_KEY")
    try:
        response = client.post(
            f"{url}/predict",
            data={"question": question, **fields},
            files=[("image", (f"{n}.jpg", jpeg, "image/jpeg")) for n, jpeg in enumerate(jpegs)],
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_s,
        )
    except httpx.HTTPError as error:
        raise EnvironmentFault(f"{url}/predict does not answer ({type(error).__name__}).") from error
    if response.status_code != 200:
        raise EnvironmentFault(f"{url}/predict answers {response.status_code}: {response.text[:300]}")
    return response.json()
