"""A reference as a person reads it: one line a column. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from stream_monitor.alerts import minute, rfc3339
from stream_monitor.codes import FIRST_BIN, MISSING
from stream_monitor.outcome_levels import outcome_relations_of
from stream_monitor.reference import Column, Kind, OutcomeRelations, Reference, Relations
from stream_monitor.summary import number

MOST_CATEGORIES = 4


def shown(reference: Reference) -> RenderableType:
    """Head lines, a table of the columns and the features left out with the reason."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, justify in (("column", "left"), ("kind", "left"), ("bins", "right"), ("missing", "right")):
        table.add_column(title, justify="right" if justify == "right" else "left", no_wrap=True)
    table.add_column("values", overflow="fold")
    table.add_column("memory", justify="right", no_wrap=True)
    for column in reference.columns:
        table.add_row(*_cells(column))
    return Group(*_head(reference), "", table, *_segments(reference), *_foot(reference))


def _segments(reference: Reference) -> Iterator[RenderableType]:
    """Every segment with its rows and its share of all."""
    if not reference.parts:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, justify in (("segment", "left"), ("rows", "right"), ("share", "right")):
        table.add_column(title, justify="right" if justify == "right" else "left", no_wrap=True)
    for part in reference.parts:
        table.add_row(escape(part.name), f"{part.rows:,}", f"{part.rows / max(reference.source.rows, 1):.1%}")
    yield ""
    yield table


def _head(reference: Reference) -> Iterator[str]:
    source = reference.source
    yield f"[bold]{escape(str(reference.stream))}[/]  digest {reference.digest()}"
    files = f" from {escape(', '.join(source.files))}" if source.files else f" learned from the {source.origin}"
    yield f"{source.rows:,} rows{files}{_span(source.first_time_ms, source.last_time_ms)}"
    season = "none" if reference.strata == 1 else f"{reference.season}, {reference.strata} strata"
    yield f"season: {season}; order of rows: {'known' if source.ordered else 'unknown'}"
    yield f"relations: {_relations(reference)}"
    if (with_label := outcome_relations_of(reference.performance)) is not None:
        yield f"with the label: {len(with_label.columns)} inputs, {escape(_strongest(with_label))} most"
    yield from (f"note: {escape(note)}" for note in source.notes)


def _relations(reference: Reference) -> str:
    """How many columns are looked at by pairs."""
    if not isinstance(reference.relations, Relations):
        return "not watched: it holds none (build it again with this release, or there are no two columns that vary)"
    columns, left_out = len(reference.relations.columns), reference.relations.left_out
    rest = f", {left_out} columns beyond that are not" if left_out else ""
    return f"of {columns} columns, {columns * (columns - 1) // 2} pairs{rest}"


def _strongest(relations: OutcomeRelations) -> str:
    """The inputs that went most with the label, and their rank correlations."""
    pairs = sorted(zip(relations.columns, relations.correlation, strict=True), key=lambda each: -abs(each[1]))
    return ", ".join(f"{name} {rho:+.2f}" for name, rho in pairs[:3])


def _span(first_ms: int | None, last_ms: int | None) -> str:
    if first_ms is None or last_ms is None:
        return ""
    return f", {minute(rfc3339(first_ms))} to {minute(rfc3339(last_ms))} UTC"


def _cells(column: Column) -> tuple[str, ...]:
    counts = np.sum([bins.counts for bins in column.strata], axis=0)
    missing = counts[MISSING] / max(column.n, 1)
    name = escape(column.name) if column.role == "input" else f"{escape(column.name)} [dim]({column.role})[/]"
    values = _quantiles(column) if column.kind is Kind.NUMERIC else _categories(column, counts)
    memory = f"{column.autocorrelation_time:.1f}" if column.autocorrelation_time > 1.05 else "–"
    return name, column.kind, str(column.bins), f"{missing:.1%}" if missing else "–", values, memory


def _quantiles(column: Column) -> str:
    found = [column.quantiles.get(level) for level in ("0.05", "0.5", "0.95")]
    return " – ".join(number(value) for value in found if value is not None)


def _categories(column: Column, counts: np.ndarray) -> str:
    parts = [
        f"{escape(name)} {count / max(column.n, 1):.0%}"
        for name, count in zip(column.categories[:MOST_CATEGORIES], counts[FIRST_BIN:], strict=False)
    ]
    more = len(column.categories) + len(column.rare) - len(parts)
    return ", ".join(parts) + (f", {more} more" if more > 0 else "")


def _foot(reference: Reference) -> Iterator[str]:
    yield ""
    yield "[dim]values: 5 % – median – 95 %, or the most common categories[/]"
    yield "[dim]memory: rows over which a value remembers itself (integrated autocorrelation time); – for none[/]"
    if reference.skipped:
        yield "not watched:"
        yield from (f"  {escape(name)}: {escape(reason)}" for name, reason in sorted(reference.skipped.items()))
