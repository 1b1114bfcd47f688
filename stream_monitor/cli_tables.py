"""Reading files for a command: which columns are what, a progress bar, and a word about lines that are no events."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream_monitor.errors import ConfigError, Fault
from stream_monitor.events import Row, Shape
from stream_monitor.tables import BadLine, TableColumns, read, total_bytes

if TYPE_CHECKING:
    from stream_monitor.config import Settings

JSON_LINES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
MOST_TOLD = 5
"""Bad lines quoted one by one; more are counted."""

_PANEL = "Columns of a table"


def _column(flag: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(flag, metavar="COL", help=text, rich_help_panel=_PANEL)
    return option


Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="CSV, JSON lines (both also .gz) or Parquet; read in order.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The model the rows belong to.", rich_help_panel=_PANEL),
]
Version = Annotated[
    str | None, typer.Option("--version", metavar="V", help="Its version, if any.", rich_help_panel=_PANEL)
]
Time = Annotated[str | None, _column("--time", "When: RFC 3339, `2026-03-01 12:00`, or epoch milliseconds.")]
Id = Annotated[str | None, _column("--id", "The event's id.")]
Prediction = Annotated[str | None, _column("--prediction", "What the model said.")]
Label = Annotated[str | None, _column("--label", "The outcome.")]
Segment = Annotated[str | None, _column("--segment", "The segment the row belongs to.")]
Ignore = Annotated[
    str | None,
    typer.Option(
        "--ignore", metavar="COL,…", help="Columns that are no features; all the others are.", rich_help_panel=_PANEL
    ),
]


@dataclass(frozen=True, slots=True)
class TableOptions:
    """The options of a command that reads files, as given."""

    model: str | None = None
    version: str | None = None
    time: str | None = None
    id: str | None = None
    prediction: str | None = None
    label: str | None = None
    segment: str | None = None
    ignore: str | None = None

    @property
    def names_columns(self) -> bool:
        return any((self.time, self.id, self.prediction, self.label, self.segment, self.ignore))


def listed(text: str | None) -> tuple[str, ...]:
    """`a, b` → ("a", "b")."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def layout(files: Sequence[Path], given: TableOptions, settings: Settings) -> TableColumns | Shape:
    """How to read the files: as tables whose columns are named, or as events in the configured shape.

    JSON lines are events if the first one is, and no column is named. Columns not named by an option are taken from a
    configured shape of flat events (`features: ""`). Raises ConfigError where a table lacks a model.
    """
    tables = [file for file in files if not file.name.lower().endswith(JSON_LINES)]
    shape = settings.input.to_shape()
    if not tables and not given.names_columns and (given.model is None or _starts_with_event(files[0], shape)):
        return shape
    flat = shape if shape.features == "" else Shape(None, None, None, None, None, "", None, None)
    model = given.model or flat.fixed_model
    if model is None:
        where = str((tables or files)[0])
        remedy = "add --model NAME, and --time, --prediction, … for the columns that are no features"
        raise ConfigError([Fault(where, "", "is a table: it does not say which model its rows belong to", remedy)])
    return TableColumns(
        model=model,
        version=given.version or flat.fixed_version or "",
        time=given.time or flat.time,
        id=given.id or flat.id,
        prediction=given.prediction or flat.prediction,
        label=given.label or flat.label,
        segment=given.segment or flat.segment,
        ignore=frozenset(listed(given.ignore)) | flat.ignore,
    )


def _starts_with_event(file: Path, shape: Shape) -> bool:
    """Whether the first lines hold an event in that shape."""
    return bool(next(read([file], shape, on_bad=lambda _: None), []))


@dataclass(slots=True)
class FileReader:
    """The rows of files, as often as asked, with a progress bar on a terminal; see `reading`."""

    files: Sequence[Path]
    columns: TableColumns | Shape
    model: str | None
    version: str | None
    advance: Callable[[int], None]
    start: Callable[[], None]
    bad: list[str] = field(default_factory=list, init=False)
    bad_lines: int = field(default=0, init=False)
    passes: int = field(default=0, init=False)

    def chunks(self) -> Iterator[list[Row]]:
        """One pass over all files; rows of other models or versions than asked for are left out."""
        self.start()
        self.passes += 1
        for rows in read(self.files, self.columns, on_bad=self.note, advance=self.advance):
            yield rows if self.model is None else [row for row in rows if self._asked(row)]

    def _asked(self, row: Row) -> bool:
        return row.model == self.model and (self.version is None or row.version == self.version)

    def note(self, bad: BadLine) -> None:
        """A line was left out."""
        if self.passes > 1:
            return  # the passes after the first meet the same lines
        self.bad_lines += 1
        if len(self.bad) < MOST_TOLD:
            self.bad.append(str(bad))

    def tell(self) -> None:
        """Say on standard error which lines were left out."""
        for line in self.bad:
            typer.echo(f"left out: {line}", err=True)
        if self.bad_lines > len(self.bad):
            typer.echo(f"left out: {self.bad_lines - len(self.bad):,} lines more", err=True)


@contextmanager
def reading(
    files: Sequence[Path], given: TableOptions, settings: Settings, segment_by: tuple[str, ...] = ()
) -> Iterator[FileReader]:
    """A reader of the files; what it left out is said at the end. `segment_by`: features that will make segments."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = layout(files, given, settings)
    if segment_by:  # parts of one stream; what the rows call their segment does not count then
        columns = replace(columns, segment=None)
        if isinstance(columns, TableColumns):
            columns = replace(columns, segment_by=segment_by)
    total = total_bytes(files)
    bar = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # A live bar on standard error must not swallow what goes into a pipe on standard output.
    console = Console(stderr=True)
    with Progress(
        *bar, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        task = progress.add_task("reading", total=total)

        def start() -> None:
            progress.reset(task, description=f"pass {reader.passes + 1}" if reader.passes else "reading")

        filtered = given.model if isinstance(columns, Shape) else None
        reader = FileReader(
            files, columns, filtered, given.version if filtered else None, lambda n: progress.advance(task, n), start
        )
        yield reader
    reader.tell()
