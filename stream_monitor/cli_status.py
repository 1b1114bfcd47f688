"""The command `status`: the streams that are watched and how they stand, from the status topic."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from stream_monitor.cli_common import ConfigOption, Verbose, broker_of, prepare

WIDTH = 160
"""A narrower terminal wraps whole lines; a table squeezed into it would show nothing."""


def status(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="The records as a JSON array.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Show every stream that is watched, as the workers last wrote it to the status topic.

    A line is written with every alert of its stream, else once a minute while the stream is read; `as_of` in the JSON
    says when. Times of events, and the rate, are those that the events name.
    """
    from rich.console import Console

    from stream_monitor.status import read

    settings = prepare(config)
    with broker_of(settings) as broker:
        records = read(broker, settings.topics.status)
    if as_json:
        typer.echo(json.dumps(records, indent=2, ensure_ascii=False))
        return
    streams = [record for record in records if record["type"] == "stream"]
    if not streams:
        typer.echo(f"no stream yet: no event has come on {settings.topics.predictions!r}, or no worker runs "
                   "(`stream-monitor run`; the first one after installation compiles for some 20 s)")  # fmt: skip
        return
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(table(streams))
    labels = [record for record in records if record["type"] == "labels"]
    if labels:
        console.print()
        console.print(labels_table(labels))
    if any(stream["metrics"] for record in labels for stream in record["streams"]):
        console.print()
        console.print(metrics_table(labels))
    for record in records:
        if record["type"] == "new_version":
            others = ", ".join(other or "(none)" for other in record["others"])
            typer.echo(f"new version {record['version']} of {record['model']} since {record['first_seen']}, "
                       f"beside {others}")  # fmt: skip
    if newest := max((record.get("as_of") or "" for record in records), default=""):
        typer.echo(f"\nwritten last {_ago(newest, time.time())}")


def _ago(written: str, now_s: float) -> str:
    """When that was, and how long ago: of workers that are all gone the table tells nothing else.

    >>> _ago("2026-03-01T12:00:00.500Z", datetime.fromisoformat("2026-03-01T12:03:00Z").timestamp())
    '2026-03-01 12:00:00 UTC, 3 min ago'
    """
    passed_s = max(0.0, now_s - datetime.fromisoformat(written).timestamp())
    return f"{written[:19].replace('T', ' ')} UTC, {_duration(passed_s)} ago"


def table(records: Sequence[Mapping[str, Any]]) -> Any:
    """The streams as a table of rich's."""
    return _table(_COLUMNS, map(_row, records))


def labels_table(records: Sequence[Mapping[str, Any]]) -> Any:
    """What became of predictions and labels, a model a line."""
    return _table(_LABELS, map(_labels_row, records))


def metrics_table(records: Sequence[Mapping[str, Any]]) -> Any:
    """How good the predictions of every stream have been lately, by the metrics that are watched."""
    rows = [(record["model"], stream) for record in records for stream in record["streams"]]
    return _table(_METRICS, (row for model, stream in rows for row in _metric_rows(model, stream)))


def _table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> Any:
    from rich.table import Table

    found = Table(*(title for title, _ in columns), box=None, pad_edge=False)
    for column, (_, right) in zip(found.columns, columns, strict=True):
        column.justify = "right" if right else "left"
        column.no_wrap = right or column.header in ("stream", "model")
    for row in rows:
        found.add_row(*row)
    return found


_COLUMNS = (
    ("stream", False), ("rows", True), ("a second", True), ("last seen", True), ("columns", True),
    ("reference", False), ("a false alarm in about", True), ("open alerts", False),
)  # fmt: skip


_LABELS = (
    ("model", False), ("predictions", True), ("labelled", True), ("after (median, 99 %)", True), ("held", True),
    ("left without", True), ("dropped", True), ("no id", True), ("without a prediction", True), ("corrections", True),
    ("unusable", True),
)  # fmt: skip
_METRICS = (("stream", False), ("metric", False), ("now", False), ("in training", True), ("over", True),
            ("open alerts", False))  # fmt: skip
_SHOWN = ("accuracy", "auc", "mae")


def _labels_row(record: Mapping[str, Any]) -> list[str]:
    counts, delay = record["counts"], record["delay_s"]
    coverage = record["coverage"]
    # A prediction that brought its label with it, and has no id to wait by, is labelled as well.
    share = f"{coverage:.1%}" if coverage is not None else f"{counts['inside']:,} inside" if counts["inside"] else ""
    late = f"{_duration(delay['p50'])}, {_duration(delay['p99'])}" if delay else ""
    told = ("unjoined", "dropped", "no_id", "unmatched", "corrections", "unusable")
    return [record["model"], f"{counts['predictions']:,}", share, late, f"{record['waiting']:,}",
            *(f"{counts[name]:,}" for name in told)]  # fmt: skip


def _metric_rows(model: str, stream: Mapping[str, Any]) -> Iterator[list[str]]:
    name = "/".join(part for part in (model, stream["version"], stream["segment"]) if part)
    open_ = ", ".join(each["subject"] for each in stream["open"])
    for metric in (metric for metric in _SHOWN if metric in stream["metrics"]):
        found = stream["metrics"][metric]
        before = "" if found["reference"] is None else f"{found['reference']:.3g}"
        now = f"{found['value']:.3g} ({found['low']:.3g} – {found['high']:.3g})"
        yield [name, metric, now, before, f"{found['n']:,} outcomes", open_]
        name = open_ = ""


def _duration(seconds: float) -> str:
    """In the largest unit that it fills; delays are known to the bucket only.

    >>> _duration(90.5), _duration(7_200), _duration(0.5)
    ('1.5 min', '2 h', '0.5 s')
    """
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


def _row(record: Mapping[str, Any]) -> list[str]:
    stream = "/".join(part for part in (record["model"], record["version"], record["segment"]) if part)
    common = [
        stream,
        f"{record['rows']:,}",
        _number(record["rate"]),
        (record["last_seen"] or "")[:19].replace("T", " "),
    ]
    if record["learning"]:
        return [*common, "", f"learning: {record['rows']:,} of {record['rows_wanted']:,} events", "", ""]
    reference, open_ = record["reference"], [each["column"] for each in record["open"]]
    more = record["alerts_open"] - len(open_)
    named = ", ".join([*open_, *([f"and {more} more"] if more else [])])
    told = f"{reference['digest'][:8]}, {reference['origin']}, {reference['n']:,} rows"
    days = f"{_number(record['false_alarm_days'])} days" if record["false_alarm_days"] else ""
    return [*common, str(record["columns"]), told, days, named]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}" if value < 1_000 else f"{value:,.0f}"
