"""The command `compare`: how two versions of a model differ, from a running monitor or from files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_monitor.cli_common import ConfigOption, Verbose, broker_of, prepare
from stream_monitor.cli_tables import JSON_LINES, Id, Ignore, Prediction, TableOptions, Time, reading
from stream_monitor.errors import ConfigError, Fault

if TYPE_CHECKING:
    from stream_monitor.compare import Comparison, Difference
    from stream_monitor.config import Settings
    from stream_monitor.events import Row

EXAMPLE = (
    "Examples: `stream-monitor compare --model credit-risk --versions 6 7` · from two tables, one a version: "
    "`stream-monitor compare six.csv seven.csv --model credit-risk --versions 6 7 --time at --prediction score`"
)
WIDTH = 140


def compare(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", show_default=False,
                       help="Events (JSON lines) of both versions, or two tables, one a version. Without: what the "
                       "running monitor has."),
    ] = None,
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="The model.")] = "",
    versions: Annotated[
        tuple[str, str], typer.Option("--versions", metavar="V W", help="The two versions.")
    ] = ("", ""),
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Everything as a JSON array, a segment an element.")
    ] = False,
    time: Time = None,
    id: Id = None,
    prediction: Prediction = None,
    ignore: Ignore = None,
    config: ConfigOption = None,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Show how the inputs and predictions of two versions of a model differ, column by column.

    From the state of a running monitor: the last 1,024 rows of either version, whichever reference it is watched with.
    From files: all their rows. A column differs where chance is an unlikely explanation and the distance is worth a
    word; it says nothing of which version is right.
    """
    from rich.console import Console

    from stream_monitor import comparing

    if not model or versions[0] == versions[1]:
        remedy = "as --model credit-risk --versions 6 7"
        raise ConfigError([Fault("compare", "", "wants a model and two different versions", remedy)])
    settings = prepare(config, needs_kafka=not files)
    if files:
        given = TableOptions(time=time, id=id, prediction=prediction, ignore=ignore)
        found = comparing.from_rows(settings, model, versions, _rows(files, given, model, versions, settings))
    else:
        with broker_of(settings) as broker:
            found = comparing.from_topics(settings, broker, model, versions)
    if as_json:
        documents = [comparison.document(model, segment) for segment, comparison in found]
        typer.echo(json.dumps(documents, indent=2, ensure_ascii=False))
        return
    console = Console()
    console.width = max(console.width, WIDTH)
    for segment, comparison in found:
        console.print("\n".join(heading(model, segment, comparison)), highlight=False)
        console.print(table(comparison))


def _rows(
    files: Sequence[Path], given: TableOptions, model: str, versions: tuple[str, str], settings: Settings
) -> Iterator[list[Row]]:
    """The rows of event files, or of two tables, one a version."""
    tables = [file for file in files if not file.name.lower().endswith(JSON_LINES)]
    if not tables:
        with reading(files, given, settings) as reader:
            yield from reader.chunks()
        return
    if len(files) != 2 or len(tables) != 2:
        problem = "tables do not say which version a row is of"
        raise ConfigError([Fault(str(tables[0]), "", problem, "give two, in the order of --versions")])
    for file, version in zip(files, versions, strict=True):
        with reading([file], replace(given, model=model, version=version), settings) as reader:
            yield from reader.chunks()


def heading(model: str, segment: str, comparison: Comparison) -> Iterator[str]:
    """Who is compared: a line a version, and how many columns differ."""
    from stream_monitor.alerts import minute

    for side in comparison.sides:
        name = "/".join(part for part in (model, side.version, segment) if part)
        seen = f"{minute(side.first_seen or '?')} to {minute(side.last_seen or '?')}"
        yield f"[bold]{name}[/]: {side.rows:,} rows, {seen}; compared: the last {len(side.codes):,}"
    if comparison.sides[0].digest != comparison.sides[1].digest:
        yield "watched with different references: the second's rows are brought to the first's bins"
    differ = sum(each.verdict == "differs" for each in comparison.columns)
    yield f"{differ} of {len(comparison.columns)} columns differ"


def table(comparison: Comparison) -> Any:
    """The columns as a table of rich's."""
    from rich.markup import escape
    from rich.table import Table

    found = Table(box=None, pad_edge=False)
    for title in ("column", "role", "", "JS", "PSI", "KS"):
        found.add_column(title, no_wrap=True, justify="right" if title.isupper() else "left")
    found.add_column(f"{comparison.sides[0].version} → {comparison.sides[1].version}", overflow="fold")
    found.add_column("alert open since", overflow="fold")
    for each in comparison.columns:
        measured = each.verdict in ("differs", "alike")
        distances = [f"{value:.3f}" if measured else "" for value in (each.js_distance, each.psi, each.ks)]
        verdict = f"[red]{each.verdict}[/]" if each.verdict == "differs" else each.verdict
        text = each.text if each.verdict != "alike" else ""
        found.add_row(escape(each.column), each.role, verdict, *distances, escape(text), _since(each))
    return found


def _since(difference: Difference) -> str:
    from stream_monitor.alerts import minute

    return ", ".join(f"{version}: {minute(since)}" for version, since in difference.since.items())
