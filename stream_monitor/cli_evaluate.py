"""The command `evaluate`: what the detection is worth on one's own data, and the configuration that follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream_monitor.cli_common import ConfigOption, Verbose, prepare
from stream_monitor.cli_replay import load_reference, read_labels
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
from stream_monitor.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table

    from stream_monitor.evaluate_outcomes import OutcomeReport
    from stream_monitor.evaluation import ColumnReport, RelationReport, Report, StreamReport
    from stream_monitor.events import Row

EXAMPLE = (
    "Examples: `stream-monitor evaluate heldout.csv.gz --reference credit-risk.json --model credit-risk --time at "
    "--prediction score --ignore paid` · `stream-monitor evaluate june.parquet july.parquet --reference r.json "
    "--model m --json evaluation.json > monitor.yaml`"
)


def evaluate(
    files: Files,
    reference: Annotated[
        list[Path], typer.Option(metavar="FILE", help="The reference; may be given again for other streams.")
    ],
    json: Annotated[Path | None, typer.Option("--json", metavar="PATH", help="Everything found, as JSON.")] = None,
    windows: Annotated[
        int, typer.Option(min=3, max=200, metavar="N", help="Random places in the data where changes are tried.")
    ] = 15,
    max_columns: Annotated[
        int, typer.Option(min=1, metavar="N", help="Columns a stream whose smallest change is sought.")
    ] = 100,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A table of labels: `id` and one more column; joined on --id.",
                     show_default=False),
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
    """Tell what the detection is worth on your data: give it data without drift, held out from the reference.

    Per column: the false alarms beside what the budget promises, and the smallest change that is found within 1,000
    events, by putting changes into the data at random places. With labels also the smallest fall of accuracy that is
    found within 1,000 of them, and with segments each one's alarms. Then a configuration that fits the data: its YAML
    goes to standard output, all else to standard error. The same files give the same answer. Needs no Kafka.
    """
    import msgspec
    import yaml
    from rich.console import Console
    from rich.progress import Progress

    from stream_monitor.evaluate import Limits, assess, gather
    from stream_monitor.replay import labelled

    settings = prepare(config, needs_kafka=False)
    references = [load_reference(path) for path in reference]
    given = TableOptions(model, version, time, id, prediction, label, segment, ignore)
    limits = Limits(windows=windows, columns=max_columns)
    known = None if labels is None else read_labels(labels)
    with reading(files, given, settings) as reader:

        def chunks() -> Iterator[list[Row]]:
            for rows in reader.chunks():
                yield rows if known is None else [labelled(row, known) for row in rows]

        gathered = gather(chunks, settings, references, limits)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("trying changes", total=None)
        report = assess(gathered, settings, limits, lambda done, of: progress.update(task, completed=done, total=of))
    _show(console, report)
    if json is not None:
        try:
            json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        except OSError as error:
            raise DataError(f"{json}: cannot be written: {error.strerror or error}") from error
    if report.config:
        typer.echo(yaml.safe_dump(report.config, sort_keys=False, allow_unicode=True), nl=False)


def _show(console: object, report: Report) -> None:
    from rich.console import Console

    assert isinstance(console, Console)
    for stream in report.streams:
        console.print(*_head(stream), sep="\n", highlight=False, soft_wrap=True)
        console.print(_table(stream))
        console.print(*_foot(stream), sep="\n", highlight=False, soft_wrap=True)
        if stream.segments:
            console.print(_segments(stream))
        if stream.relations is not None:
            console.print(_relations(stream.relations), highlight=False, soft_wrap=True)
        if stream.outcomes is not None:
            console.print(*_outcomes(stream.outcomes), sep="\n", highlight=False, soft_wrap=True)
    if report.rows_without_reference:
        console.print(f"{report.rows_without_reference:,} rows belong to no stream of the references", highlight=False)
    for advice in report.advice:
        console.print(f"[bold]→[/] {advice}", highlight=False, soft_wrap=True)
    if report.config:
        console.print("recommended (standard output):", highlight=False)


def _head(stream: StreamReport) -> Iterator[str]:
    from rich.markup import escape

    rate = f", {stream.events_per_week:,.0f} a week" if stream.events_per_week is not None else ""
    yield f"[bold]{escape(stream.stream)}[/]: {stream.rows:,} events{rate}; budget {stream.budget_events:,} events"


def _table(stream: StreamReport) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("column", overflow="fold")
    for title in ("alarms", "per 10⁶", "promised", "shift", "nulls", "new"):
        table.add_column(title, justify="right", no_wrap=True)
    for column in stream.columns:
        alarms = f"[red]{column.alarms}[/]" if column.alarms else "0"
        rate = f"{column.alarms_per_million:.3g} (≤ {column.alarms_at_most:.3g})"
        name = escape(column.column) + (" [yellow]exclude[/]" if column.exclude else "")
        shift = _smallest(column, "mean") or _smallest(column, "share")
        promised = f"{column.promised_per_million:.2g}"
        table.add_row(name, alarms, rate, promised, shift, _smallest(column, "null"), _smallest(column, "new"))
    return table


def _segments(stream: StreamReport) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("segment", overflow="fold")
    for title in ("events", "alarms", "promised"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in stream.segments:
        alarms = f"[red]{each.alarms}[/]" if each.alarms else "0"
        table.add_row(escape(each.segment), f"{each.rows:,}", alarms, f"{each.promised:.2g}")
    return table


def _alarms(alarms: Mapping[str, int], promised: float) -> str:
    from rich.markup import escape

    told = ", ".join(f"{escape(name)} {count}" for name, count in alarms.items()) or "none"
    return f"alarms: {told} (promised {promised:.2g} per 10⁶)"


def _relations(relations: RelationReport) -> str:
    alarms = _alarms(relations.alarms, relations.promised_per_million)
    return f"[bold]relations[/] with the prediction and among inputs; {alarms}"


def _outcomes(outcomes: OutcomeReport) -> Iterator[str]:
    from rich.markup import escape

    yield f"[bold]{outcomes.outcomes:,} labels[/]; {_alarms(outcomes.alarms, outcomes.promised_per_million)}"
    for each in outcomes.metrics:
        before = "" if each.reference is None else f", in training {each.reference:.3g}"
        yield f"  {each.metric} {each.value:.3g} ({each.low:.3g} – {each.high:.3g} over {each.n:,}){before}"
    if outcomes.note:
        yield f"  note: {escape(outcomes.note)}"
        return
    fall = outcomes.smallest_fall
    what = "a fall of accuracy by" if outcomes.metric == "accuracy" else "a rise of the errors by"
    amount = "however much"
    if fall is not None:
        amount = f"{100 * fall:.2g} points" if outcomes.metric == "accuracy" else f"{fall:.0%}"
    found = "the smallest found" if fall is not None else "not found"
    yield f"  {what} {amount}: {found} within {outcomes.within:,} labels in 4 of 5 of {outcomes.windows} random places"


def _smallest(column: ColumnReport, change: str) -> str:
    from stream_monitor.summary import percent

    for found in column.smallest:
        if found.change == change:
            if found.amount is None:
                return "not found" if found.windows else "drifts"
            return f"{found.amount:.2g} sd" if found.unit == "sd" else percent(found.amount)
    return ""


def _foot(stream: StreamReport) -> Iterator[str]:
    from rich.markup import escape

    within = max((found.within for column in stream.columns for found in column.smallest), default=0)
    yield "[dim]alarms: in these data; per 10⁶ rows (≤: what so few cannot rule out, 95 %); promised by the budget[/]"
    yield (
        f"[dim]shift, nulls, new category: the smallest found within {within:,} events in 4 of 5 of {stream.windows} "
        "random places; of numbers in sd of the training data, of categories in the share of one[/]"
    )
    for column in stream.columns:
        if column.exclude:
            yield f"  [yellow]exclude[/] {escape(column.column)}: {escape(column.exclude)}"
    yield from (f"  note: {escape(note)}" for note in stream.notes)
