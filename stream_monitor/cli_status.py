"""The command `status`: the streams that are watched and how they stand, from the status topic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from stream_monitor.cli_common import ConfigOption, Verbose, broker_of, prepare

WIDTH = 160
"""A narrower terminal wraps whole lines; a table squeezed into it would show nothing."""


def status(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The records as a JSON array.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Show every stream that is watched, as the workers last wrote it to the status topic.

    Each line is at most a minute old by the workers' clock while its stream is read; `as_of` in the JSON says when.
    """
    from rich.console import Console

    from stream_monitor.status import read

    settings = prepare(config)
    with broker_of(settings) as broker:
        records = read(broker, settings.topics.status)
    if as_json:
        typer.echo(json.dumps(records, indent=2, ensure_ascii=False))
        return
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(table([record for record in records if record["type"] == "stream"]))
    for record in records:
        if record["type"] == "new_version":
            others = ", ".join(other or "(none)" for other in record["others"])
            typer.echo(f"new version {record['version']} of {record['model']} since {record['first_seen']}, "
                       f"beside {others}")  # fmt: skip


def table(records: Sequence[Mapping[str, Any]]) -> Any:
    """The streams as a table of rich's."""
    from rich.table import Table

    found = Table(*(title for title, _ in _COLUMNS), box=None, pad_edge=False)
    for column, (_, right) in zip(found.columns, _COLUMNS, strict=True):
        column.justify = "right" if right else "left"
        column.no_wrap = right or column.header == "stream"
    for record in records:
        found.add_row(*_row(record))
    return found


_COLUMNS = (
    ("stream", False), ("rows", True), ("a second", True), ("last seen", True), ("columns", True),
    ("reference", False), ("a false alarm in about", True), ("open alerts", False),
)  # fmt: skip


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
