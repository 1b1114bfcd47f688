"""Files to rows: what a cell means, what every format gives, and how bad input is refused."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.cells import cell, cells_of, time_ms_of
from stream_monitor.errors import DataError
from stream_monitor.events import Row, Shape
from stream_monitor.tables import BadLine, TableColumns, read, total_bytes
from tests.unit.rows import PACKAGE_DATA

COLUMNS = TableColumns("m", "7", time="t", id="id", prediction="p", label="y", segment="s", ignore=("no", "not there"))
TABLE = """id,t,x,c,b,p,y,s,no
007,2018-10-30 18:08:43.152,1.5,red,True,0.25,1,01,z
8,1970-01-01T00:00:01Z,,7,false,1,,2,z
"""
WANT = [
    Row("m", "7", "01", 1540922923152, {"x": 1.5, "c": "red", "b": True}, 0.25, 1, "007", 0, 0, 0),
    Row("m", "7", "2", 1000, {"x": None, "c": 7, "b": False}, 1, None, "8", 0, 1, 0),
]


def write(path: Path, text: str) -> Path:
    packed = path.suffix == ".gz"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


def rows(path: Path, columns: TableColumns | Shape = COLUMNS, **options: Any) -> list[Row]:
    return [one for chunk in read([path], columns, **options) for one in chunk]


# Cells


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("12", 12), ("-3", -3), ("12.0", 12.0), (".5", 0.5), ("1e-3", 0.001), (" 7 ", 7), ("+4", 4),
        ("inf", float("inf")), ("true", True), ("FALSE", False), ("tRuE", "tRuE"), ("1_000", "1_000"), ("١٢", "١٢"),
        ("0x1F", "0x1F"), ("10%", "10%"), ("1,5", "1,5"), (" ", " "), ("None", "None"), ("9" * 30, 10**30 - 1),
        ("9" * 5_000, float("inf")),
    ],
)  # fmt: skip
def test_what_a_cell_means(text: str, value: Any) -> None:
    assert (cell(text), type(cell(text))) == (value, type(value))


cell_texts = st.one_of(
    st.sampled_from(["", "1", "-2", "1.5", "2.0", "nan", "inf", "true", "False", "1_0", " 3", "1.2.3", "..", "١"]),
    st.integers().map(str), st.floats().map(str), st.floats().map(lambda x: f"{x:.3f}"), st.text(max_size=4),
)  # fmt: skip


@given(st.lists(cell_texts, max_size=8) | st.lists(st.floats().map(str), max_size=8))
@settings(derandomize=True)
def test_whole_columns_give_what_single_cells_give(texts: list[str]) -> None:
    want = [cell(text) for text in texts]
    assert list(map(repr, cells_of(texts))) == list(map(repr, want))


@pytest.mark.parametrize(
    ("value", "time_ms"),
    [
        ("2018-10-30 18:08:43.152", 1540922923152), ("2018-10-30T18:08:43Z", 1540922923000),
        ("2018-10-30T20:08:43+02:00", 1540922923000), ("2018-10-30", 1540857600000),
        ("1540922923152", 1540922923152), ("1540922923", 1540922923000), (1540922923.5, 1540922923500),
        ("yesterday", "yesterday"), ("", ""), (None, None), (True, True),
    ],
)  # fmt: skip
def test_times_in_every_usual_form(value: object, time_ms: object) -> None:
    assert time_ms_of(value) == time_ms


# Formats


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.CSV"])
def test_csv(tmp_path: Path, name: str) -> None:
    assert rows(write(tmp_path / name, TABLE)) == WANT


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_byte_order_marks_and_line_ends(tmp_path: Path, delimiter: str) -> None:
    text = "\ufeff" + TABLE.replace(",", delimiter).replace("\n", "\r\n")
    assert rows(write(tmp_path / "t.csv", text)) == WANT


def test_quoted_cells_and_an_unnamed_index(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ',a,b\n0,"x, ""y""\nz",1\n1,w,2\n')
    assert [one.features for one in rows(path, TableColumns("m"))] == [
        {"a": 'x, "y"\nz', "b": 1}, {"a": "w", "b": 2},
    ]  # fmt: skip


def test_jsonl_as_table_and_as_events(tmp_path: Path) -> None:
    flat = [
        {"id": "007", "t": "2018-10-30 18:08:43.152", "x": 1.5, "c": "red", "b": True, "p": 0.25, "y": 1, "s": "01"},
        {"id": 8, "t": 1, "x": None, "c": 7, "b": False, "p": 1, "y": None, "s": 2, "no": "z"},
    ]
    text = "\n\n".join(map(json.dumps, flat))
    assert rows(write(tmp_path / "t.jsonl.gz", text)) == WANT
    two = '[{"model":"m","features":{"x":1}},{"model":"m","features":{}}]'
    events = '{"model":"m","time":5,"features":{"x":NaN}}\n\n' + two
    found = rows(write(tmp_path / "e.jsonl", events), Shape())
    assert [(one.offset, one.index, one.time_ms) for one in found] == [(0, 0, 5), (1, 0, 0), (1, 1, 0)]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    when = [datetime(2018, 10, 30, 18, 8, 43, 152_000, UTC), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]
    table = pyarrow.table(
        {
            "id": ["007", "8"], "t": pyarrow.array(when, pyarrow.timestamp("us", tz="UTC")), "x": [1.5, None],
            "c": pyarrow.array(["red", None]).dictionary_encode(), "b": [True, False], "p": [0.25, 1.0], "y": [1, None],
            "s": ["01", "2"], "no": ["z", "z"],
        }
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "t.parquet")
    read_bytes: list[int] = []
    found = rows(tmp_path / "t.parquet", advance=read_bytes.append)
    assert found[0] == WANT[0]
    assert found[1].features == {"x": None, "c": None, "b": False}
    assert sum(read_bytes) == total_bytes([tmp_path / "t.parquet"])


def test_parquet_without_its_extra_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"stream-monitor\[parquet\]"):
        rows(write(tmp_path / "t.parquet", "x"))


def test_row_numbers_run_over_all_files_and_progress_adds_up(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.csv", "x\n" + "1\n" * 2_500) for i in range(2)]
    read_bytes: list[int] = []
    chunks = list(read(paths, TableColumns("m"), advance=read_bytes.append))
    assert [one.offset for chunk in chunks for one in chunk] == list(range(5_000))
    assert max(map(len, chunks)) == 1_000
    assert sum(read_bytes) == total_bytes(paths)


def test_car_loan_reads_as_its_readme_says() -> None:
    columns = TableColumns("car-loan", time="timestamp", id="id", prediction="y_pred_proba")
    found = rows(PACKAGE_DATA / "production.csv.gz", columns)
    assert len(found) == 50_000
    assert found[25_000].time_ms == time_ms_of("2019-03-31T03:00:00Z")
    assert (found[0].id, found[0].prediction, found[0].features["repaid_loan_on_prev_car"]) == ("50000", 0.99, False)


def test_reading_takes_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "x,y\n" + "1.5,abc\n" * 100_000)
    tracemalloc.start()
    assert sum(len(chunk) for chunk in read([path], TableColumns("m"))) == 100_000
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


# Bad input


def test_missing_columns_are_all_named_with_the_nearest_there_is(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "timestamp,x\n1,2\n")
    for file in (path, write(tmp_path / "t.jsonl", '{"timestamp":1,"x":2}')):
        with pytest.raises(DataError) as error:
            rows(file, TableColumns("m", time="timestmp", label="repaid", segment_by=("x", "region")))
        text = str(error.value)
        assert "no column 'timestmp' (did you mean 'timestamp'?)" in text
        assert "no column 'repaid'" in text
        assert "no column 'region'" in text
        assert "the columns are: timestamp, x" in text


def test_bad_lines_are_told_by_number_or_end_the_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 't,x\n1,"a\nb"\n1,2,3\n\nnever,5\n2,6\n')
    bad: list[BadLine] = []
    found = rows(path, TableColumns("m", time="t"), on_bad=bad.append)
    assert [(one.offset, one.features["x"]) for one in found] == [(0, "a\nb"), (3, 6)]
    assert [(one.line, one.reject.reason) for one in bad] == [(4, "bad_line"), (6, "bad_time")]
    with pytest.raises(DataError, match=r"t\.csv, line 4: 3 cells, the header has 2"):
        rows(path, TableColumns("m", time="t"))
    lines = write(tmp_path / "t.jsonl", '{"model":"m","features":{}}\nnonsense\n{"features":{}}\n')
    bad.clear()
    assert len(rows(lines, Shape(), on_bad=bad.append)) == 1
    assert [(one.line, one.reject.reason) for one in bad] == [(2, "not_json"), (3, "no_model")]
    bad.clear()
    assert len(rows(lines, TableColumns("m"), on_bad=bad.append)) == 2
    assert [(one.line, one.reject.reason) for one in bad] == [(2, "bad_line")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"), ("t.csv", b"a,b,a\n", "columns occur twice: a"),
        ("t.csv", b"x\n\xff\xfe\n", "cannot be read after row 0"), ("t.xls", b"x", "unknown kind of file"),
        ("t.csv.gz", gzip.compress(b"x\n" * 9_000)[:-20], "cannot be"), ("t.csv.gz", b"\x1f\x8bnot gzip", "cannot be"),
        ("t.parquet", b"nonsense", "cannot be read"), ("t.csv", b'x\n"' + b"a" * 200_000, "field larger than"),
    ],
)  # fmt: skip
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        rows(tmp_path / name, TableColumns("m"))
    assert name in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        rows(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"none\.csv: cannot be read"):
        total_bytes([tmp_path / "none.csv"])


def test_a_table_needs_its_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--model"):
        rows(write(tmp_path / "t.csv", TABLE), Shape())
