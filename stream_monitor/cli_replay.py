"""The command `replay`: files through the detectors, alerts as JSON lines, a summary for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from stream_monitor.cli_common import ConfigOption, Verbose, prepare
from stream_monitor.cli_tables import (
    Files,
    Id,
    Ignore,
    Label,
    Model,
    Prediction,
    Segment,
    TableOptions,
    Time,
    Version,
    reading,
)
from stream_monitor.errors import ConfigError, DataError, Fault
from stream_monitor.reference import Reference, StreamKey
from stream_monitor.reference_checks import load

if TYPE_CHECKING:
    from stream_monitor.alerts import Alert
    from stream_monitor.inject import Injection
    from stream_monitor.replay import Injected, StreamSummary, Summary

EXAMPLE = (
    "Examples: `stream-monitor replay production.csv.gz --model credit-risk --time at --prediction score "
    "--reference credit-risk.json --alerts alerts.jsonl` · would a drift have been noticed? "
    "`stream-monitor replay heldout.csv --model credit-risk --reference credit-risk.json --alerts /dev/null "
    "--inject mean:age:0.5@25000 --inject category:region:XX:0.02@30000 --inject unit:income:1000@2026-03-01`"
)


def replay(
    files: Files,
    reference: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A reference to compare with; may be given again for other streams.",
                     show_default=False),
    ] = None,
    alerts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the alerts go; else standard output.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A table of labels: `id` and one more column; joined on --id.",
                     show_default=False),
    ] = None,
    inject: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:COL:…@START[..END]", show_default=False,
            help="Put a known drift into the rows and say after how many it is found; may be given again. "
            "START and END are row numbers from 0, or times. "
            "`mean:age:0.5@25000` adds 0.5 sd of the reference · `scale:age:2@…` doubles the spread · "
            "`null:age:0.05@…` nulls 5 % · `category:region:XX:0.02@…` makes 2 % XX · `unit:age:1000@…` multiplies · "
            "`stuck:age@…` repeats the last value.",
        ),
    ] = None,
    model: Model = None,
    version: Version = None,
    time: Time = None,
    id: Id = None,
    prediction: Prediction = None,
    label: Label = None,
    segment: Segment = None,
    ignore: Ignore = None,
    config: ConfigOption = None,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Watch files as if they came over Kafka: a back-test, with the same alerts, ids included.

    Alerts go to standard output as JSON lines, a summary to standard error. A stream without a reference learns one
    from its first events, as it does live. Needs no Kafka.
    """
    from rich.console import Console

    from stream_monitor.events import Shape
    from stream_monitor.inject import parse
    from stream_monitor.replay import replay as play

    injections = parse(inject or [])
    settings = prepare(config, needs_kafka=False)
    asked = {path: load_reference(path) for path in reference or []}
    references = [*map(load_reference, settings.references), *asked.values()]
    given = TableOptions(model, version, time, id, prediction, label, segment, ignore)
    with _sink(alerts) as sink, reading(files, given, settings) as reader:
        if isinstance(reader.columns, Shape) and model is not None:
            problem = f"{files[0]} holds events, which say themselves of which model they are"
            raise ConfigError([Fault("--model", model, problem, "leave it out")])
        summary = play(
            files, columns=reader.columns, settings=settings, references=references,
            on_alert=lambda alert: _put(sink, alert), on_bad=reader.note, advance=reader.advance,
            injections=injections, labels=None if labels is None else read_labels(labels),
        )  # fmt: skip
    console = Console(stderr=True)
    console.print("\n".join(_report(summary)), highlight=False, soft_wrap=True)
    for path, each in asked.items():
        if not any(_is_for(each.stream, stream) for stream in summary.streams):
            console.print(f"\nnote: {path} was not used: it is of {each.stream}, and no event belongs to that; compare "
                          "--model and --version with it", markup=False, highlight=False, soft_wrap=True)  # fmt: skip
    if injections:
        console.print("\n".join(_injection_report(injections, summary)), highlight=False, soft_wrap=True)


def _is_for(reference: StreamKey, stream: StreamKey) -> bool:
    """Whether a reference, with a version or for all of them, is one for the stream."""
    return reference.model == stream.model and reference.version in ("", stream.version)


def load_reference(path: Path) -> Reference:
    """A reference document; raises DataError or ReferenceInvalid."""
    try:
        return load(path.read_bytes(), name=str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_labels(path: Path) -> dict[str, object]:
    """Id → label of a CSV file; raises DataError."""
    from stream_monitor.tables import TableColumns, read

    found: dict[str, object] = {}
    for rows in read([path], TableColumns(model="labels", id="id")):
        for row in rows:
            if len(row.features) != 1:
                raise DataError(
                    f"{path}: has the columns {', '.join(row.features)} beside id; one is wanted: the label"
                )
            (label,) = row.features.values()
            found.setdefault(row.id or "", label)
    return found


@contextmanager
def _sink(path: Path | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stdout
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    with file:
        yield file


def _put(sink: IO[str], alert: Alert) -> None:
    sink.write(alert.to_json().decode() + "\n")
    sink.flush()


def _report(summary: Summary) -> Iterator[str]:
    """What happened, stream by stream: the columns that fired, in the order of their first alert."""
    counts = [_count(summary.rows, "event"), _count(len(summary.streams), "stream"), _count(summary.alerts, "alert")]
    yield ", ".join(counts)
    if summary.rejects:
        yield "left out: " + ", ".join(f"{count:,} {reason}" for reason, count in summary.rejects.most_common())
    for stream, told in summary.streams.items():
        yield ""
        yield from _stream_report(str(stream), told)


def _injection_report(injections: Sequence[Injection], summary: Summary) -> Iterator[str]:
    """Every injection, in the order given: found after how many rows, or not."""
    from rich.markup import escape

    yield ""
    yield "[bold]injected[/]"
    for injection in injections:
        met = [injected for injected in summary.injected if injected.injection is injection]
        if not met:
            yield f"  {escape(injection.text)}: [red]hit nothing[/]: none of the {summary.rows:,} events lies there"
        for injected in met:
            where = f" ({escape(str(injected.stream))})" if len(summary.streams) > 1 else ""
            yield f"  {escape(injection.text)}{where}: {_fate(injected, summary)}"


def _fate(injected: Injected, summary: Summary) -> str:
    from rich.markup import escape

    from stream_monitor.alerts import minute

    if injected.fired is not None:
        told = injected.fired.summary.removeprefix(f"{injected.injection.column}: ")
        return f"[green]found[/] after {_count(injected.delay + 1, 'row')}: [dim]{escape(told)}[/]"
    if injected.open_since is not None:
        since = minute(injected.open_since.onset.time)
        return f"[yellow]not told apart[/]: the column was drifting already, since {since}"
    left = summary.streams[injected.stream].rows - injected.rows_before
    return f"[red]not found[/] in the {_count(left, 'row')} that follow"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _stream_report(name: str, told: StreamSummary) -> Iterator[str]:
    from rich.markup import escape

    from stream_monitor.alerts import minute

    learned = f", against a reference learned from the first {told.learned_from:,}" if told.learned_from else ""
    yield f"[bold]{escape(name)}[/]: {_count(told.rows, 'event')} watched{learned}"
    if told.failed:
        yield f"  [red]not watched:[/] {escape(told.failed)}"
    elif told.learning is not None:
        yield f"  still learning its reference: {told.learning[0]:,} of {told.learning[1]:,} events"
    elif not told.columns:
        yield "  nothing drifted"
    for column, seen in told.columns.items():
        if seen.first is None or seen.last is None:
            continue
        now = "[green]resolved[/]" if seen.last.state == "resolved" else f"[red]drifting[/], {seen.last.severity}"
        onset, rows = minute(seen.first.onset.time), seen.first.detected.rows_since_onset
        fired = "once" if seen.fired == 1 else f"{seen.fired} times"
        noticed = f"fired {fired}, first since {onset}, noticed {_count(rows, 'row')} later"
        yield f"  [bold]{escape(column)}[/]: {now}; {noticed}"
        first, last = (alert.summary.removeprefix(f"{column}: ") for alert in (seen.first, seen.last))
        yield f"    [dim]{escape(first)}[/]"
        if seen.last.state == "updated" and last != first:
            yield f"    [dim]by now: {escape(last)}[/]"
