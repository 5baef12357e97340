"""Limits a decoding process puts on itself."""

from __future__ import annotations


def limit_memory(size_bytes: int) -> None:
    """Refuse this process more address space, where the system can."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes, size_bytes))
