"""The official OpenPack annotation CSVs: `openpack-operations` and `openpack-operations-1hz`, read and written.

    operations: uuid,user,session,box,id,operation,start,end,actions   ISO times with zone (+09:00)
    1 Hz:       unixtime,user,session,box,id                           unixtime in milliseconds

Guarantees: every row is read or the file is refused; a wrong row raises `InputError` with file and row number (the
header is row 1). Rows come back in file order. Not guaranteed: that rows touch; gaps are the source's and stay.
"""

from __future__ import annotations

import csv
import itertools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO
from pathlib import Path

from components.shared.runtime.artifacts import atomic_write
from components.shared.runtime.errors import InputError
from components.shared.work.operations import NAMES, NULL_ID

JST = timezone(timedelta(hours=9))
OPERATION_COLUMNS = ("uuid", "user", "session", "box", "id", "operation", "start", "end", "actions")
SECOND_COLUMNS = ("unixtime", "user", "session", "box", "id")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pixelis/openpack-operations")


@dataclass(frozen=True)
class OperationRow:
    """One row of openpack-operations; times carry their zone."""

    uuid: str
    user: str
    session: str
    box: int
    operation: int
    start: datetime
    end: datetime
    actions: tuple[str, ...] = ()


@dataclass(frozen=True)
class SecondRow:
    """One row of openpack-operations-1hz."""

    unixtime_ms: int
    user: str
    session: str
    box: int
    operation: int


def operation_uuid(user: str, session: str, index: int) -> str:
    """A reproducible uuid for a row this project writes."""
    return f"op:{uuid.uuid5(_NAMESPACE, f'{user}/{session}/{index}')}"


def read_operations(path: Path) -> list[OperationRow]:
    """Read an openpack-operations CSV.

    Raises:
        InputError: missing column, unknown id, bad or zoneless time, end not after start, duplicate or overlapping
        rows.
    """
    rows: list[OperationRow] = []
    seen: dict[str, int] = {}
    for number, cells in _rows(path, OPERATION_COLUMNS):
        where = f"{path}, row {number}"
        row = OperationRow(
            uuid=cells["uuid"],
            user=cells["user"],
            session=cells["session"],
            box=_whole(cells["box"], where, "box"),
            operation=_operation(cells["id"], where),
            start=_time(cells["start"], where, "start"),
            end=_time(cells["end"], where, "end"),
            actions=tuple(part for part in cells["actions"].split(";") if part),
        )
        if row.end <= row.start:
            raise InputError(
                f"{where}: end {cells['end']} is not after start {cells['start']}.", remedy="Correct the row."
            )
        if row.uuid and row.uuid in seen:
            raise InputError(
                f"{where}: uuid {row.uuid} is a duplicate of row {seen[row.uuid]}.", remedy="Remove one of them."
            )
        seen[row.uuid] = number
        rows.append(row)
    _refuse_overlap(path, rows)
    return rows


def _refuse_overlap(path: Path, rows: Sequence[OperationRow]) -> None:
    ordered = sorted(enumerate(rows, start=2), key=lambda pair: (pair[1].start, pair[1].end))
    for (first, a), (second, b) in itertools.pairwise(ordered):
        if b.start < a.end:
            kind = "a duplicate of" if (a.start, a.end, a.operation) == (b.start, b.end, b.operation) else "overlapping"
            raise InputError(
                f"{path}, row {second}: {b.start.isoformat()} to {b.end.isoformat()} is {kind} row {first} "
                f"(to {a.end.isoformat()}), so a moment would have two operations.",
                remedy="Correct or remove one of the rows.",
            )


def read_seconds(path: Path) -> list[SecondRow]:
    """Read an openpack-operations-1hz CSV.

    Raises:
        InputError: missing column, unknown id, or times that do not ascend.
    """
    rows: list[SecondRow] = []
    for number, cells in _rows(path, SECOND_COLUMNS):
        where = f"{path}, row {number}"
        row = SecondRow(
            _whole(cells["unixtime"], where, "unixtime"),
            cells["user"],
            cells["session"],
            _whole(cells["box"], where, "box"),
            _operation(cells["id"], where),
        )
        if rows and row.unixtime_ms <= rows[-1].unixtime_ms:
            raise InputError(
                f"{where}: unixtime {row.unixtime_ms} does not come after {rows[-1].unixtime_ms}: double or unordered.",
                remedy="Sort the rows and remove duplicates.",
            )
        rows.append(row)
    return rows


def write_operations(path: Path, rows: Iterable[OperationRow]) -> None:
    """Write an openpack-operations CSV, times in +09:00 with microseconds as the official files have them."""
    lines = (
        (
            row.uuid, row.user, row.session, row.box, row.operation, NAMES[row.operation],
            format_time(row.start), format_time(row.end), ";".join(row.actions),
        )
        for row in rows
    )  # fmt: skip
    _write(path, OPERATION_COLUMNS, lines)


def write_seconds(path: Path, rows: Iterable[SecondRow]) -> None:
    """Write an openpack-operations-1hz CSV."""
    _write(path, SECOND_COLUMNS, ((r.unixtime_ms, r.user, r.session, r.box, r.operation) for r in rows))


def format_time(time: datetime) -> str:
    """A time as the official CSVs write it: `2022-03-29 14:25:22.143000+09:00`."""
    return time.astimezone(JST).isoformat(sep=" ", timespec="microseconds")


def unixtime_ms(time: datetime) -> int:
    """Milliseconds since 1970-01-01 UTC."""
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    atomic_write(path, text.getvalue())


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} is missing, so the session has no annotation.", remedy="Check the folder.") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).", remedy="Replace it."
        ) from error
    reader = csv.DictReader(StringIO(text, newline=""))
    missing = [name for name in columns if name not in (reader.fieldnames or [])]
    if missing:
        found = ", ".join(reader.fieldnames or []) or "nothing"
        raise InputError(
            f"{path}, row 1: column {', '.join(missing)} is missing (found: {found}).",
            remedy="Give the official columns.",
        )
    for number, cells in enumerate(reader, start=2):
        if None in cells or any(cells[name] is None for name in columns):
            raise InputError(
                f"{path}, row {number}: not {len(reader.fieldnames or [])} cells.", remedy="Correct the row."
            )
        yield number, {name: cells[name].strip() for name in columns}


def _whole(text: str, where: str, column: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{where}: {column} {text!r} is not a whole number.", remedy="Correct the row.") from None


def _operation(text: str, where: str) -> int:
    number = _whole(text, where, "id")
    if number not in NAMES:
        known = ", ".join(str(known) for known in NAMES)
        raise InputError(
            f"{where}: operation id {number} is unknown.", remedy=f"Known ids: {known} ({NULL_ID} is Null)."
        )
    return number


def _time(text: str, where: str, column: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{where}: {column} {text!r} is not an ISO time.", remedy="Correct the row.") from None
    if time.tzinfo is None:
        raise InputError(
            f"{where}: {column} {text!r} has no time zone, so it cannot be laid over the video.",
            remedy="Add one, for instance +09:00.",
        )
    return time
