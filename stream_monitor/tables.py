"""Files → rows, a chunk at a time: CSV and JSON lines (gzipped or not), and Parquet with the extra.

A row of a file is the event at partition 0, at the offset that is its number over all files, from 0.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from stream_monitor.cells import cells_of, time_ms_of
from stream_monitor.errors import DataError
from stream_monitor.events import Decoded, Reject, Row, Shape, decode, row_of

CHUNK: Final = 1_000
_CELLS_AT_ONCE: Final = 200_000
_DELIMITERS: Final = ",;\t|"
_FORMATS: Final = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Which columns of a table are what; every column not named is a feature.

    `model`, `version`: the names of the model and its version, not columns. `segment_by`: features that make
    segments, which a table must have. A table without a `time` column has no times (they are all 0).
    """

    model: str
    version: str = ""
    time: str | None = None
    id: str | None = None
    prediction: str | None = None
    label: str | None = None
    segment: str | None = None
    segment_by: tuple[str, ...] = ()
    ignore: Collection[str] = ()

    def shape(self) -> Shape:
        """The same as the shape of flat events."""
        return Shape(
            model=None, fixed_model=self.model, version=None, fixed_version=self.version or None, features="",
            time=self.time, id=self.id, prediction=self.prediction, label=self.label, segment=self.segment,
            ignore=frozenset(self.ignore),
        )  # fmt: skip

    def named(self) -> list[str]:
        """Columns that a table must have (what is to be ignored may as well be absent)."""
        roles = (self.time, self.id, self.prediction, self.label, self.segment)
        return [name for name in (*roles, *self.segment_by) if name]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line (of Parquet: a row) that is no event: where it stands, counted from 1, and why."""

    path: Path
    line: int
    reject: Reject

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.reject.detail}"


OnBad = Callable[[BadLine], None]
Advance = Callable[[int], None]


def refuse(bad: BadLine) -> None:
    """The default for bad lines: the first ends the reading."""
    raise DataError(str(bad))


def total_bytes(paths: Sequence[Path]) -> int:
    """What `advance` will add up to; raises DataError for a file that cannot be read."""
    try:
        return sum(path.stat().st_size for path in paths)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error


def read(
    paths: Sequence[Path],
    columns: TableColumns | Shape,
    *,
    on_bad: OnBad = refuse,
    advance: Advance = lambda _: None,
) -> Iterator[list[Row]]:
    """The rows of all files in order, in lists of about `CHUNK`.

    `columns` says how to read a table; with a Shape the lines are events. `on_bad` is told of every line that is no
    event, which is then left out (its number is not given to another). `advance` is told of bytes read, as they are on
    disk. Raises DataError for a file that cannot be read, or lacks a column that was named.
    """
    reading = _Reading(columns, on_bad, advance)
    for path in paths:
        try:
            yield from _READERS[_format(path)](path, reading)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except (OSError, EOFError, UnicodeError, zlib.error, csv.Error) as error:
            raise DataError(f"{path}: cannot be read after row {reading.next_row}: {error}") from error


class _Reading:
    """One pass over the files: what is asked, and how far it got."""

    def __init__(self, columns: TableColumns | Shape, on_bad: OnBad, advance: Advance) -> None:
        self.columns = columns
        self.shape = columns.shape() if isinstance(columns, TableColumns) else columns
        self.on_bad = on_bad
        self.advance = advance
        self.next_row = 0

    def row(self, event: object, path: Path, line: int) -> list[Row]:
        """The next row, if the event is one."""
        found = row_of(event, 0, 0, self.next_row, 0, self.shape)
        self.next_row += 1
        return self.sift([found], path, line)

    def bad(self, path: Path, line: int, detail: str) -> None:
        """The next row cannot be used."""
        self.on_bad(BadLine(path, line, Reject("bad_line", detail, 0, self.next_row, 0)))
        self.next_row += 1

    def sift(self, found: Decoded, path: Path, line: int) -> list[Row]:
        for reject in found:
            if isinstance(reject, Reject):
                self.on_bad(BadLine(path, line, reject))
        return [row for row in found if isinstance(row, Row)]


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if not suffixes or suffixes[-1] not in _FORMATS:
        raise DataError(f"{path}: unknown kind of file; known are {', '.join(_FORMATS)}, all but Parquet also as .gz")
    return _FORMATS[suffixes[-1]]


@contextmanager
def _opened(path: Path, reading: _Reading) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """The file's bytes, unpacked, and a function that reports how far it was read."""
    with path.open("rb") as raw:
        reported = 0

        def report() -> None:
            nonlocal reported
            reading.advance(raw.tell() - reported)
            reported = raw.tell()

        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        yield gzip.GzipFile(fileobj=raw) if packed else raw, report  # type: ignore[misc]  # a GzipFile is a BinaryIO


def _csv(path: Path, reading: _Reading) -> Iterator[list[Row]]:
    if not isinstance(reading.columns, TableColumns):
        raise DataError(f"{path}: a table needs its columns named (--model, --time, --prediction, …)")
    with _opened(path, reading) as (raw, report), io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        names, delimiter = _header(path, text.readline())
        _check_columns(path, names, reading.columns)
        reader = csv.reader(text, delimiter=delimiter)
        first = 0
        while lines := list(islice(reader, _rows_at_once(len(names)))):
            numbers = _line_numbers(lines, first, reader.line_num)
            yield _rows_of_lines(path, names, list(zip(numbers, lines, strict=True)), reading)
            first = reader.line_num
            report()
        report()


def _rows_at_once(columns: int) -> int:
    """Fewer rows of a wide table, so that memory stays bounded."""
    return max(10, min(CHUNK, _CELLS_AT_ONCE // columns))


def _header(path: Path, line: str) -> tuple[list[str], str]:
    """The names of the columns ("" for one to leave out, as pandas' index) and the delimiter, the commonest there."""
    delimiter = max(_DELIMITERS, key=line.count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    if not any(names):
        raise DataError(f"{path}: is empty; its first line should name the columns")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: columns occur twice: {', '.join(twice)}")
    return names, delimiter


def _line_numbers(rows: list[list[str]], before: int, until: int) -> Iterable[int]:
    """The number of the first line of every row, where rows end after so many lines below the header."""
    if until - before == len(rows):
        return range(before + 2, until + 2)
    heights = (1 + sum(cell.count("\n") for cell in cells) for cells in rows[:-1])
    return accumulate(heights, initial=before + 2)


def _rows_of_lines(path: Path, names: list[str], lines: list[tuple[int, list[str]]], reading: _Reading) -> list[Row]:
    assert isinstance(reading.columns, TableColumns)  # checked before anything was read
    good = [cells for _, cells in lines if len(cells) == len(names)]
    by_name = zip(names, zip(*good, strict=True), strict=False)  # where no line is good there is nothing to name
    columns = {name: _values(name, texts, reading.columns) for name, texts in by_name if name}
    events = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    rows: list[Row] = []
    for number, cells in lines:
        if len(cells) == len(names):
            rows += reading.row(next(events), path, number)
        elif cells:  # else an empty line
            reading.bad(path, number, f"{len(cells)} cells, the header has {len(names)}")
    return rows


def _values(name: str, texts: Sequence[str], columns: TableColumns) -> Sequence[object]:
    """The cells of one column as its role wants them: identifiers stay as they are written."""
    if name == columns.time:
        return list(map(time_ms_of, texts))
    return texts if name in (columns.id, columns.segment) else cells_of(texts)


def _check_columns(path: Path, names: Collection[str], columns: TableColumns) -> None:
    """Raises DataError naming every column that was asked for and is not there."""
    faults = []
    for name in columns.named():
        if name not in names:
            near = get_close_matches(name, names, 1, 0.6)
            faults.append(f"{path}: no column {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if faults:
        raise DataError("\n".join([*faults, f"the columns are: {', '.join(sorted(names))}"]))


def _jsonl(path: Path, reading: _Reading) -> Iterator[list[Row]]:
    table = reading.columns if isinstance(reading.columns, TableColumns) else None
    with _opened(path, reading) as (raw, report):
        numbered = ((number, line) for number, line in enumerate(raw, 1) if not line.isspace())
        while lines := list(islice(numbered, CHUNK)):
            if table:
                yield _rows_of_objects(path, lines, table, reading)
            else:
                yield list(chain.from_iterable(_events(path, number, line, reading) for number, line in lines))
            report()
        report()


def _events(path: Path, number: int, line: bytes, reading: _Reading) -> list[Row]:
    found = decode(line.strip(), 0, 0, reading.next_row, reading.shape)
    reading.next_row += 1
    return reading.sift(found, path, number)


def _rows_of_objects(path: Path, lines: list[tuple[int, bytes]], table: TableColumns, reading: _Reading) -> list[Row]:
    """Flat objects as rows of a table."""
    parsed = [(number, _parsed(line)) for number, line in lines]
    if lines[0][0] == 1:
        _check_columns(path, set().union(*(event for _, event in parsed if isinstance(event, dict))), table)
    rows: list[Row] = []
    for number, event in parsed:
        if isinstance(event, dict):
            if table.time in event:
                event[table.time] = time_ms_of(event[table.time])
            rows += reading.row(event, path, number)
        else:
            reading.bad(path, number, "not a JSON object")
    return rows


def _parsed(line: bytes) -> object:
    """The JSON of a line, NaN and Infinity admitted; None if it is none."""
    for loads in (orjson.loads, json.loads):
        try:
            return loads(line)
        except (ValueError, RecursionError):
            pass
    return None


def _parquet(path: Path, reading: _Reading) -> Iterator[list[Row]]:
    from stream_monitor.parquet import read_parquet  # lazily: an extra

    if not isinstance(reading.columns, TableColumns):
        raise DataError(f"{path}: a table needs its columns named (--model, --time, --prediction, …)")
    table, line = reading.columns, 1
    for columns in read_parquet(path, _rows_at_once, reading.advance):
        _check_columns(path, columns, table)
        if table.time:
            columns[table.time] = list(map(time_ms_of, columns[table.time]))
        rows: list[Row] = []
        for values in zip(*columns.values(), strict=True):
            rows += reading.row(dict(zip(columns, values, strict=True)), path, line)
            line += 1
        yield rows


_READERS: Final = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
