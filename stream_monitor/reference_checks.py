"""Reading a reference document, and everything that would make the detectors or the encoder stumble later. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from operator import lt

import msgspec

from stream_monitor.codes import FIRST_BIN, MAX_BINS
from stream_monitor.errors import ReferenceInvalid
from stream_monitor.features import column_name
from stream_monitor.packed import packed
from stream_monitor.reference import (
    LEVELS,
    MAX_COLUMNS,
    MAX_DOCUMENT_BYTES,
    MAX_RELATED,
    MAX_ROWS,
    MAX_SEGMENT_FEATURES,
    MAX_SEGMENTS,
    MAX_WAITING_LEVELS,
    SCHEMA_VERSION,
    SLOTS,
    Bins,
    Column,
    Kind,
    OutcomeRelations,
    Performance,
    Reference,
    Relations,
    Role,
    Season,
    SegmentColumn,
)


def load(data: bytes, name: str = "reference") -> Reference:
    """Read a reference document; raises ReferenceInvalid naming `name` and what is wrong."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ReferenceInvalid(f"{name}: {len(data)} bytes, more than the {MAX_DOCUMENT_BYTES} a reference may have")
    try:
        reference = msgspec.json.decode(data, type=Reference)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _check_version(_version_of(data, name), name)
        raise ReferenceInvalid(f"{name}: {error}") from error
    _check_version(reference.schema_version, name)
    problems = list(_problems(reference))
    if problems:
        raise ReferenceInvalid("\n".join(f"{name}: {problem}" for problem in problems))
    found = packed(reference)
    vars(found)["_digest"] = reference.digest()  # of plain lists it takes half the time
    return found


class _Versioned(msgspec.Struct):
    schema_version: int


def _version_of(data: bytes, name: str) -> int:
    try:
        return msgspec.json.decode(data, type=_Versioned).schema_version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReferenceInvalid(f"{name}: not a reference document: {error}") from error


def _check_version(version: int, name: str) -> None:
    if version != SCHEMA_VERSION:
        raise ReferenceInvalid(
            f"{name}: schema version {version}, but this release reads {SCHEMA_VERSION}: "
            "build it again with `stream-monitor reference build`"
        )


def _problems(reference: Reference) -> list[str]:
    """Everything that would make the detectors or the encoder stumble later."""
    problems = []
    if not reference.model:
        problems.append("model is empty")
    if not 0 < len(reference.columns) <= MAX_COLUMNS:
        problems.append(f"{len(reference.columns)} columns; between 1 and {MAX_COLUMNS} can be watched")
    names = [column.name for column in reference.columns]
    problems += [f"column {name!r} occurs twice" for name in sorted({n for n in names if names.count(n) > 1})]
    wanted = SLOTS[reference.season] if reference.season is not Season.NONE else 0
    if len(reference.slots) != wanted:
        problems.append(f"slots has {len(reference.slots)} entries, season {reference.season} needs {wanted}")
    elif reference.slots and (min(reference.slots) < 0 or reference.strata > wanted):
        problems.append("slots names a stratum that cannot be")
    for column in reference.columns:
        problems += [f"column {column.name!r}: {problem}" for problem in _column_problems(column, reference.strata)]
    if reference.performance is not msgspec.UNSET:
        problems += [f"performance: {problem}" for problem in _performance_problems(reference.performance)]
        if reference.performance.relations is not msgspec.UNSET:
            found = _outcome_relation_problems(reference, reference.performance.relations)
            problems += [f"performance: relations: {problem}" for problem in found]
    if reference.relations is not msgspec.UNSET:
        problems += [f"relations: {problem}" for problem in _relation_problems(reference, reference.relations)]
    return problems or list(_segment_problems(reference))


def _relation_problems(reference: Reference, relations: Relations) -> Iterator[str]:
    columns, count = {column.name: column for column in reference.columns}, len(relations.columns)
    if not 2 <= count <= MAX_RELATED or len(set(relations.columns)) < count or set(relations.columns) - columns.keys():
        yield f"names {count} columns; 2 to {MAX_RELATED} different watched ones can be"
        return
    widths = [FIRST_BIN + columns[name].bins for name in relations.columns]
    if [len(levels) for levels in relations.levels] != widths:
        yield "levels are not those of the columns' codes"
    elif any(min(levels) < -1 or max(levels) >= LEVELS for levels in relations.levels):  # none is empty
        yield f"levels must lie in -1 … {LEVELS - 1}"
    if [len(row) for row in relations.correlation] != list(range(count)):
        yield "correlations are not one a pair of columns"
    elif not all(-1 <= value <= 1 for row in relations.correlation for value in row):
        yield "correlations must lie in -1 … 1"
    if len(relations.tables) != count * (count - 1) // 2 * LEVELS * LEVELS * 2:
        yield f"{len(relations.tables)} bytes of tables are not one a pair of columns"


def _performance_problems(performance: Performance) -> list[str]:
    problems = [f"column {c.name!r}: {problem}" for c in performance.columns for problem in _column_problems(c, 1)]
    if not performance.columns or any(column.role is not Role.OUTCOME for column in performance.columns):
        problems.append("needs columns, all of role outcome")
    numbers = [*performance.metrics.values(), *performance.scale.values()]
    numbers += [number for knot in performance.calibration for number in knot]
    if not all(math.isfinite(number) for number in numbers) or any(v <= 0 for v in performance.scale.values()):
        problems.append("numbers must be finite, scales positive")
    scores = [score for score, _ in performance.calibration]
    if scores != sorted(set(scores)) or any(not 0 <= share <= 1 for _, share in performance.calibration):
        problems.append("calibration must ascend strictly, with shares in 0 … 1")
    return problems


def _outcome_relation_problems(reference: Reference, relations: OutcomeRelations) -> Iterator[str]:
    known = reference.relations.columns if isinstance(reference.relations, Relations) else []
    names, count = set(relations.columns), len(relations.columns)
    if not 0 < count <= MAX_WAITING_LEVELS or len(names) < count or names - set(known):
        yield f"names {count} columns; 1 to {MAX_WAITING_LEVELS} different ones of the reference's relations can be"
    if len(relations.correlation) != count or not all(-1 <= value <= 1 for value in relations.correlation):
        yield "correlations are not one a column in -1 … 1"
    if len(relations.tables) != count * LEVELS * LEVELS * 2:
        yield f"{len(relations.tables)} bytes of tables are not one a column"
    edges = relations.edges
    if not 0 < len(edges) < LEVELS or edges != sorted(set(edges)) or not all(math.isfinite(edge) for edge in edges):
        yield f"needs 1 to {LEVELS - 1} finite edges of the label, ascending"
    times = [*relations.times, relations.label_time]
    if len(times) != count + 1 or not all(1.0 <= value < 1e6 for value in times):
        yield "autocorrelation times are not one a column in 1 … 10⁶"


def _segment_problems(reference: Reference) -> Iterator[str]:
    by = reference.segment_by or []
    columns = {column.name: column for column in reference.columns}
    if len(by) > MAX_SEGMENT_FEATURES or len(set(by)) < len(by):
        yield f"segment_by names {len(by)} features; up to {MAX_SEGMENT_FEATURES} different ones can be"
    for feature in by:
        column = columns.get(column_name(feature))
        if column is None or column.kind is not Kind.CATEGORICAL:
            yield f"segment_by names {feature!r}, which is no categorical column"
            return
    if len(reference.parts) > MAX_SEGMENTS:
        yield f"{len(reference.parts)} segments; {MAX_SEGMENTS} can be watched"
    names = [segment.name for segment in reference.parts]
    yield from (f"segment {name!r} occurs twice" for name in sorted({n for n in names if names.count(n) > 1}))
    for segment in reference.parts:
        own = {column_name(feature) for feature in segment.features}
        watched = [column for column in reference.columns if column.name not in own]
        if not (own and set(segment.features) <= set(by) and (len(own) == 1 or own == {column_name(f) for f in by})):
            yield f"segment {segment.name!r} is not made by segment_by"
        elif any(value not in columns[column_name(f)].categories for f, value in segment.where.items()):
            yield f"segment {segment.name!r} is of a value that is no category"
        elif len(segment.columns) != len(watched) or not watched:
            yield f"segment {segment.name!r} has {len(segment.columns)} columns, {len(watched)} are watched in it"
        elif problem := next(filter(None, map(_part_problem, segment.columns, watched)), ""):
            yield f"segment {segment.name!r}, {problem}"


def _part_problem(part: SegmentColumn, column: Column) -> str:
    sizes = [len(bins.counts) for bins in column.strata]
    if [len(counts) for counts in part.counts] != sizes:
        return f"column {column.name!r}: its counts are not of the same bins as the whole stream's"
    if any(min(counts) < 0 or sum(counts) < 1 for counts in part.counts):
        return f"column {column.name!r}: counts must be natural numbers and not all zero"
    if not 1.0 <= part.autocorrelation_time < 1e6:
        return f"column {column.name!r}: autocorrelation_time {part.autocorrelation_time} is not in 1 … 10⁶"
    return ""


def _column_problems(column: Column, strata: int) -> list[str]:
    if len(column.strata) != strata:
        return [f"{len(column.strata)} strata, the reference has {strata}"]
    problems = []
    for bins in column.strata:
        size = len(bins.counts) - FIRST_BIN
        if not 0 <= size <= MAX_BINS or size != column.bins:
            problems.append(f"{size} bins; 0 to {MAX_BINS} are possible, the same number in every stratum")
        elif min(bins.counts) < 0 or not 1 <= bins.n <= MAX_ROWS:
            problems.append("counts must be natural numbers, not all zero, and 10¹⁵ in all at most")
        elif column.kind is Kind.NUMERIC and len(bins.edges) != size:
            problems.append(f"{len(bins.edges)} edges for {size} bins")
        elif column.kind is Kind.NUMERIC and not _ascending(bins):
            problems.append("edges must ascend strictly, be finite and not lie below `low`")
        elif column.kind is Kind.CATEGORICAL and len(column.categories) != size:
            problems.append(f"{len(column.categories)} categories for {size} bins")
    if not 1.0 <= column.autocorrelation_time < 1e6:
        problems.append(f"autocorrelation_time {column.autocorrelation_time} is not in 1 … 10⁶")
    return problems


def _ascending(bins: Bins) -> bool:
    """Strictly; and between a first and a last edge that are finite no other can be infinite, or no number."""
    edges = bins.edges
    if not edges:
        return True
    finite = math.isfinite(edges[0]) and math.isfinite(edges[-1])
    return finite and bins.low <= edges[0] and all(map(lt, edges, islice(edges, 1, None)))
