"""Who may ask what: API keys, roles, rate limits, and what is removed from a user's text.

Role: keys are 32 random bytes, shown once when made; the keys file holds their sha256 only (a random key of 256 bits
needs no slow hash). Without a keys file the service is open, on loopback only, and says so.

    {"keys": [{"name": "line-3", "role": "client", "sha256": "..."}]}

Guarantees: comparison takes the same time for every wrong key; no key and no hash reaches a log or an answer.
Not guaranteed: secrecy on the wire, which is the business of a TLS proxy in front.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.config import Section, describe
from components.shared.runtime.errors import ConfigError, PixelisError

Role = Literal["viewer", "client", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Ascending: each role may do what those before it may."""


class ApiKey(Section):
    """One key: its owner's name, role and hash."""

    name: str
    role: Role
    sha256: str


class KeyFile(Section):
    """The keys file."""

    keys: tuple[ApiKey, ...]


@dataclass(frozen=True)
class Caller:
    """Who asks: `name` is the source recorded with an experience."""

    name: str
    role: Role

    def may(self, role: Role) -> bool:
        """Whether the caller has at least this role."""
        return ROLES.index(self.role) >= ROLES.index(role)


LOCAL = Caller("local", "admin")


class Gatekeeper:
    """Turns the key of a request into a caller."""

    def __init__(self, keys: tuple[ApiKey, ...] | None) -> None:
        self._keys = keys

    @property
    def is_open(self) -> bool:
        """True where no keys are configured (loopback only)."""
        return self._keys is None

    @classmethod
    def load(cls, keys_file: str, host: str) -> Gatekeeper:
        """Read the keys.

        Raises:
            ConfigError: no keys on a public address, or a keys file that is not one.
        """
        if not keys_file:
            if not is_loopback(host):
                raise ConfigError(
                    f"ttrl.host = {host!r} can be reached from outside but ttrl.keys_file is empty: "
                    "the service would be open to anyone.",
                    remedy="Make a key: `python -m components.ttrl.security --file keys.json --name NAME`.",
                )
            return cls(None)
        try:
            return cls(KeyFile.model_validate(read_json(Path(keys_file))).keys)
        except ValidationError as error:
            raise ConfigError(describe(error, keys_file)) from error
        except PermissionError as error:
            raise ConfigError(
                f"ttrl.keys_file = {keys_file} may not be read by user {os.getuid()}; the service was not started.",
                remedy="Give that user the right to read it (it holds hashes of keys, not keys).",
            ) from error

    def identify(self, key: str | None) -> Caller | None:
        """The caller who owns `key`, None where nobody does."""
        if self._keys is None:
            return LOCAL
        offered = hashlib.sha256((key or "").encode()).hexdigest()
        found = None
        for known in self._keys:
            if hmac.compare_digest(known.sha256, offered):
                found = Caller(known.name, known.role)
        return found


class RateLimiter:
    """Token bucket per caller: `per_minute` requests a minute, a burst of a quarter of that; 0 lets everything pass."""

    def __init__(self, per_minute: int) -> None:
        self._rate = per_minute / 60
        self._burst = max(per_minute / 4, 1.0)
        self._state: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, name: str) -> float:
        """0 where the request may pass (and is counted), else the seconds until one may."""
        if self._rate <= 0:
            return 0.0
        now = time.monotonic()
        with self._lock:
            tokens, last = self._state.get(name, (self._burst, now))
            tokens = min(tokens + (now - last) * self._rate, self._burst)
            if tokens < 1:
                self._state[name] = (tokens, now)
                return (1 - tokens) / self._rate
            self._state[name] = (tokens - 1, now)
            return 0.0


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_TOKEN = re.compile(r"<(?=[|/]?\s*(?:\||[A-Za-z_]))")


def neutralise(text: str) -> str:
    """A user's text without anything a tokenizer or a chat template could take for structure.

    Control and direction characters go; the `<` that opens a token-like tag (`<|im_end|>`, `<tool_call>`, `</think>`)
    becomes the look-alike `‹`, so the text still reads the same.
    """
    return _TOKEN.sub("‹", _CONTROL.sub(" ", text)).strip()


def make_key(path: Path, name: str, role: Role) -> str:
    """Add a key to the keys file and return it; it can never be shown again."""
    existing = KeyFile.model_validate(read_json(path)).keys if path.exists() else ()
    if any(known.name == name for known in existing):
        raise ConfigError(
            f"{path} already has a key named {name!r}.", remedy="Choose another name, or remove the old entry."
        )
    key = secrets.token_urlsafe(32)
    entry = ApiKey(name=name, role=role, sha256=hashlib.sha256(key.encode()).hexdigest())
    write_json(path, KeyFile(keys=(*existing, entry)).model_dump(mode="json"))
    path.chmod(0o600)
    return key


def main(argv: list[str] | None = None) -> int:
    """Make a key from the command line."""
    parser = argparse.ArgumentParser(prog="python -m components.ttrl.security", description="Make an API key.")
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--role", choices=ROLES, default="client")
    options = parser.parse_args(argv)
    try:
        print(
            json.dumps(
                {"name": options.name, "role": options.role, "key": make_key(options.file, options.name, options.role)}
            )
        )
    except PixelisError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
