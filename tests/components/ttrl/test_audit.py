"""The audit chain shows every later change."""

import json
import os
import resource
from pathlib import Path

import pytest

from components.shared.runtime.errors import ArtifactError
from components.ttrl.audit import AuditLog, main, verify


@pytest.fixture
def chain(tmp_path):
    log = AuditLog(tmp_path)
    for number in range(3):
        log.append("tune", "anna", {"n": number})
    again = AuditLog(tmp_path)  # a restart
    again.append("pause", "ben", {})
    return tmp_path


def lines(state):
    return (state / "audit.jsonl").read_text().splitlines(keepends=True)


def test_a_whole_chain_verifies(chain, capsys):
    assert verify(chain) == 4
    assert main([str(chain)]) == 0
    assert "4 lines, whole" in capsys.readouterr().out
    assert (chain / "audit.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("name", "change", "number"),
    [
        ("changed", lambda a: [a[0], a[1].replace("anna", "otto"), *a[2:]], 2),
        ("removed", lambda a: [a[0], *a[2:]], 2),
        ("reordered", lambda a: [a[1], a[0], *a[2:]], 1),
        ("cut", lambda a: a[:-1], 4),
        ("repeated", lambda a: [*a, a[-1]], 5),
        ("torn", lambda a: [*a[:-1], a[-1][:20]], 4),
    ],
)
def test_changes_are_found(chain, capsys, name, change, number):
    (chain / "audit.jsonl").write_text("".join(change(lines(chain))))
    with pytest.raises(ArtifactError, match=f"line {number} "):
        verify(chain)
    assert main([str(chain)]) == 4


def test_a_log_without_its_head_is_not_cut(chain):
    (chain / "audit.head").unlink()
    before = lines(chain)
    with pytest.raises(ArtifactError, match="has 4 lines"):
        AuditLog(chain)
    assert lines(chain) == before


def test_the_key_is_never_readable_by_others(tmp_path, monkeypatch):
    modes = []
    replace = os.replace

    def look(source, target):
        modes.append(Path(source).stat().st_mode & 0o777)
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    AuditLog(tmp_path)
    assert modes == [0o600]


def test_a_full_disk_leaves_no_half_line(tmp_path):
    log = AuditLog(tmp_path)
    log.append("pause", "anna", {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (lines_size(tmp_path) + 10, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            log.append("resume", "anna", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.append("tune", "anna", {})
    assert verify(tmp_path) == 2


def lines_size(state):
    return (state / "audit.jsonl").stat().st_size


def test_a_line_without_its_head_is_dropped_at_the_next_start(chain):
    with open(chain / "audit.jsonl", "a") as file:
        file.write('{"seq": 5, "at"')
    log = AuditLog(chain)
    log.append("resume", "ben", {})
    assert verify(chain) == 5
    assert json.loads(lines(chain)[-1])["action"] == "resume"
