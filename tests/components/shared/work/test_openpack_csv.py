"""Official CSVs: round trip, the official sample, and every wrong row."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from components.shared.runtime.errors import InputError
from components.shared.work.openpack_csv import (
    OPERATION_COLUMNS,
    read_operations,
    read_seconds,
    write_operations,
    write_seconds,
)
from components.shared.work.series import second_rows

SAMPLE = Path(os.environ.get("PIXELIS_SHARED_DATA", "../shared/data")) / "openpack/openpack/v1.0.0/U0209/annotation"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no OpenPack sample under {SAMPLE}")

HEADER = ",".join(OPERATION_COLUMNS)
GOOD = [
    "op:1,U0101,S0100,1,100,Picking,2022-03-29 14:25:22.143000+09:00,2022-03-29 14:25:30.304000+09:00,act:a;act:b",
    "op:2,U0101,S0100,1,200,Relocate Item Label,2022-03-29 14:25:30.304000+09:00,2022-03-29 14:25:56.039000+09:00,",
]


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "S0100.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_operations_survive_a_round_trip(tmp_path: Path) -> None:
    rows = read_operations(write(tmp_path, *GOOD))
    write_operations(tmp_path / "again.csv", rows)
    assert (tmp_path / "again.csv").read_text() == "\n".join([HEADER, *GOOD]) + "\n"
    assert rows[0].actions == ("act:a", "act:b")
    assert rows[0].start.utcoffset() == timedelta(hours=9)


def test_seconds_survive_a_round_trip(tmp_path: Path) -> None:
    series = second_rows(read_operations(write(tmp_path, *GOOD)))
    write_seconds(tmp_path / "hz.csv", series)
    assert read_seconds(tmp_path / "hz.csv") == series
    assert [row.operation for row in series[:9]] == [100] * 8 + [200]


@needs_sample
def test_official_sample_reads_whole() -> None:
    rows = read_operations(SAMPLE / "openpack-operations/S0500.csv")
    assert len(rows) == 117
    assert {row.user for row in rows} == {"U0209"}
    assert len(read_seconds(SAMPLE / "openpack-operations-1hz/S0500.csv")) == 861


@needs_sample
def test_official_sample_round_trip_is_byte_for_byte(tmp_path: Path) -> None:
    for name, read, save in (
        ("openpack-operations", read_operations, write_operations),
        ("openpack-operations-1hz", read_seconds, write_seconds),
    ):
        official = SAMPLE / name / "S0500.csv"
        save(tmp_path / name, read(official))
        assert (tmp_path / name).read_text().splitlines() == official.read_text().splitlines()


@needs_sample
def test_our_second_series_equals_the_official_one_row_by_row() -> None:
    ours = second_rows(read_operations(SAMPLE / "openpack-operations/S0500.csv"))
    assert ours == read_seconds(SAMPLE / "openpack-operations-1hz/S0500.csv")


BAD_ROWS = {
    "unknown id": (
        "op:1,U,S,1,150,X,2022-03-29 14:00:00+09:00,2022-03-29 14:00:05+09:00,",
        "operation id 150 is unknown",
    ),
    "end before start": ("op:1,U,S,1,100,X,2022-03-29 14:00:05+09:00,2022-03-29 14:00:00+09:00,", "is not after start"),
    "no length": ("op:1,U,S,1,100,X,2022-03-29 14:00:05+09:00,2022-03-29 14:00:05+09:00,", "is not after start"),
    "no zone": ("op:1,U,S,1,100,X,2022-03-29 14:00:00,2022-03-29 14:00:05+09:00,", "no time zone"),
    "no time": ("op:1,U,S,1,100,X,noon,2022-03-29 14:00:05+09:00,", "'noon' is not an ISO time"),
    "box no number": ("op:1,U,S,one,100,X,2022-03-29 14:00:00+09:00,2022-03-29 14:00:05+09:00,", "box 'one'"),
    "too few cells": ("op:1,U,S,1,100", "not 9 cells"),
    "too many cells": ("op:1,U,S,1,100,X,2022-03-29 14:00:00+09:00,2022-03-29 14:00:05+09:00,,x", "not 9 cells"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_wrong_row_is_named(tmp_path: Path, case: str) -> None:
    row, message = BAD_ROWS[case]
    path = write(tmp_path, GOOD[0], row)
    with pytest.raises(InputError) as caught:
        read_operations(path)
    assert message in str(caught.value)
    assert f"{path}, row 3" in str(caught.value)


def test_overlapping_rows_name_both(tmp_path: Path) -> None:
    late = GOOD[1].replace("14:25:30.304000", "14:25:29.000000")
    with pytest.raises(InputError, match=r"row 3: .* overlapping row 2"):
        read_operations(write(tmp_path, GOOD[0], late))


def test_duplicate_rows_and_uuids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 3: .*duplicate of row 2"):
        read_operations(write(tmp_path, GOOD[0], GOOD[0].replace("op:1", "op:9")))
    with pytest.raises(InputError, match="row 3: uuid op:1 is a duplicate of row 2"):
        read_operations(write(tmp_path, GOOD[0], GOOD[1].replace("op:2", "op:1")))


def test_missing_column_file_and_encoding(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 1: column start is missing"):
        read_operations(write(tmp_path, header=HEADER.replace("start", "begin")))
    with pytest.raises(InputError, match="is missing, so the session has no annotation"):
        read_operations(tmp_path / "nothing.csv")
    (tmp_path / "latin.csv").write_bytes(b"uuid,\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_operations(tmp_path / "latin.csv")


def test_seconds_must_ascend(tmp_path: Path) -> None:
    path = tmp_path / "hz.csv"
    path.write_text("unixtime,user,session,box,id\n2000,U,S,1,100\n2000,U,S,1,100\n")
    with pytest.raises(InputError, match="row 3: unixtime 2000 does not come after 2000"):
        read_seconds(path)
