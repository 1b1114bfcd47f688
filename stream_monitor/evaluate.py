"""What the detection is worth on one's own data: false alarms on data without drift, the smallest change that is
found, and the configuration that follows.

False alarms are those of a whole replay. The smallest change is sought in windows of the data at random places
(seeded), see `trials.py`; what follows from both is in `evaluation.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import AlertKind, State
from stream_monitor.association import relations_of
from stream_monitor.book import FIRST_EPOCH, ReferenceBook, key_of
from stream_monitor.config import Settings
from stream_monitor.dependence import mid_ranks
from stream_monitor.detectors.ensemble import PANE_ROWS
from stream_monitor.encode import Binner
from stream_monitor.encoder import categorical, route
from stream_monitor.errors import DataError
from stream_monitor.evaluate_outcomes import MOST, OutcomeReport, SegmentReport, outcome_report, segment_reports
from stream_monitor.evaluation import (
    ColumnReport,
    RelationReport,
    Report,
    StreamReport,
    at_most,
    recommend,
    why_exclude,
)
from stream_monitor.events import Row
from stream_monitor.incidents import about_outcomes
from stream_monitor.privacy import veil_of
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.replay import Replay, Summary
from stream_monitor.season import Hours, choose, explained
from stream_monitor.segments import segment_budget, whole_budget
from stream_monitor.streams import RELATIONS_SHARE, StreamFactory
from stream_monitor.trials import RANGES, Trials

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WITHIN_ROWS: Final = 1_000
LEAD_ROWS: Final = 500
WEEK_MS: Final = 7 * 24 * 3_600_000
_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much to try: windows a column, and columns a stream (by importance of their place in the reference)."""

    windows: int = 15
    columns: int = 100
    seed: int = 0


@dataclass(slots=True)
class _Watched:
    """One stream in the second pass: what is gathered."""

    reference: Reference
    binner: Binner
    ranks: Floats
    starts: list[int]
    lead: int
    length: int
    rows: int = 0
    kept: list[list[Row]] = field(default_factory=list)
    counts: Ints = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    hours: dict[int, Floats] = field(default_factory=dict)
    first_ms: int = 2**62
    last_ms: int = -(2**62)


@dataclass(slots=True)
class Gathered:
    """What reading the rows gave."""

    replay: Replay
    watched: dict[StreamKey, _Watched]
    labelled: dict[StreamKey, list[Row]]

    @property
    def replayed(self) -> Summary:
        return self.replay.summary


def gather(
    chunks: Callable[[], Iterable[Sequence[Row]]], settings: Settings, references: Sequence[Reference], limits: Limits
) -> Gathered:
    """Read the rows twice (`chunks()` starts afresh): replay them, and keep the windows. Raises DataError where no row
    has a reference."""
    replay = Replay(settings, references, lambda _: None)
    for rows in chunks():
        replay.feed(rows)
    labelled: dict[StreamKey, list[Row]] = {}
    veil = veil_of(settings)
    book = ReferenceBook(veil)
    for reference in references:
        epoch = book.newest_epoch(reference.stream)
        book.apply(key_of(reference.stream, FIRST_EPOCH if epoch is None else epoch + 1), reference.to_json())
    watched = _windows(replay.summary, book, limits)
    if not watched:
        raise DataError("no row belongs to a stream of the references: compare --model and --version with theirs")
    for rows in chunks():
        seen = [veil.row(row, categorical(settings, row.model)) for row in rows] if veil else rows
        _gather(seen, settings, watched)
        _keep_labelled(seen, settings, labelled)
    return Gathered(replay, watched, labelled)


def _keep_labelled(rows: Sequence[Row], settings: Settings, labelled: dict[StreamKey, list[Row]]) -> None:
    """The first rows of every stream that have a label and a prediction."""
    for row in rows:
        if row.label is not None and row.prediction is not None:
            kept = labelled.setdefault(route(row, settings), [])
            if len(kept) < MOST:
                kept.append(row)


def assess(
    gathered: Gathered,
    settings: Settings,
    limits: Limits,
    advance: Callable[[int, int], None] = lambda _done, _of: None,
) -> Report:
    """Evaluate what was gathered; `advance` is told how many steps are done, and of how many."""
    watched, replayed = gathered.watched, gathered.replayed
    steps = len(watched) * len(RANGES)
    streams = []
    for number_, (key, stream) in enumerate(watched.items()):
        report = _stream_report(key, stream, replayed, settings)
        report.segments = _segments(key, gathered, settings)
        report.relations = _relations(key, gathered, settings)
        report.outcomes = _outcomes(key, gathered, settings, limits)
        for step, _ in enumerate(_seek(report, stream, settings, limits)):
            advance(number_ * len(RANGES) + step + 1, steps)
        streams.append(report)
    report_ = Report(streams, replayed.rows, replayed.rows - sum(stream.rows for stream in watched.values()))
    recommend(report_)
    return report_


def _segments(key: StreamKey, gathered: Gathered, settings: Settings) -> list[SegmentReport]:
    stream = gathered.replay.stream(key)
    names = set(stream.segments.monitors) if stream.segments is not None else set()
    alarms = {
        other.segment: sum(column.fired for column in told.columns.values())
        for other, told in gathered.replayed.streams.items()
        if other[:2] == key[:2] and other.segment in names
    }
    budget = segment_budget(gathered.watched[key].reference, settings.for_model(key.model).detection.budget_events)
    return list(segment_reports(stream, alarms, budget))


def _relations(key: StreamKey, gathered: Gathered, settings: Settings) -> RelationReport | None:
    reference = gathered.watched[key].reference
    detection = settings.for_model(key.model).detection
    if relations_of(reference) is None or not detection.relations.enabled:
        return None
    fired = {name: seen.fired for name, seen in gathered.replayed.streams[key].columns.items()
             if seen.fired and seen.first is not None and seen.first.kind is AlertKind.CORRELATION_DRIFT
             and not about_outcomes(seen.first)}  # fmt: skip
    return RelationReport(fired, 1e6 * RELATIONS_SHARE / whole_budget(reference, detection.budget_events))


def _outcomes(key: StreamKey, gathered: Gathered, settings: Settings, limits: Limits) -> OutcomeReport | None:
    scoring = gathered.replay.scoring(key)
    if scoring is None:
        return None
    told = gathered.replayed.streams[key].columns
    fired = {name: seen.fired for name, seen in told.items() if seen.fired and seen.first is not None
             and about_outcomes(seen.first)}  # fmt: skip
    new_scoring = StreamFactory(settings).model(key.model).new_scoring
    assert new_scoring is not None  # it has scored
    budget = settings.for_model(key.model).detection.budget_events
    rows = gathered.labelled.get(key, [])
    return outcome_report(scoring, rows, fired, budget, new_scoring, limits.windows, limits.seed)


def _windows(replayed: Summary, book: ReferenceBook, limits: Limits) -> dict[StreamKey, _Watched]:
    """Where in every stream the windows lie."""
    watched = {}
    for number_, (key, told) in enumerate(replayed.streams.items()):
        entry = book.find(key)
        if entry is None:
            continue
        within = min(WITHIN_ROWS, told.rows // 2)
        lead = min(LEAD_ROWS, (told.rows - within) // 2 // PANE_ROWS * PANE_ROWS)
        length = lead + within
        rng = np.random.default_rng([limits.seed, number_])
        starts = sorted(rng.integers(0, told.rows - length + 1, limits.windows).tolist()) if told.rows else []
        columns = len(entry.reference.columns)
        watched[key] = _Watched(
            entry.reference, Binner(entry.reference), _ranks(entry.reference), starts, lead, length,
            kept=[[] for _ in starts], counts=np.zeros((columns, 256), dtype=np.int64),
        )  # fmt: skip
    return watched


def _gather(rows: Sequence[Row], settings: Settings, watched: dict[StreamKey, _Watched]) -> None:
    """Keep the rows of the windows, count codes, and sum ranks by the hour."""
    runs: dict[StreamKey, list[Row]] = {}
    for row in rows:
        routed = route(row, settings)
        if routed in watched:
            runs.setdefault(routed, []).append(row)
    for key, run in runs.items():
        stream = watched[key]
        coded = stream.binner.encode(run)
        for column in range(coded.codes.shape[1]):
            stream.counts[column] += np.bincount(coded.codes[:, column], minlength=256)
        times = np.fromiter(map(attrgetter("time_ms"), run), np.int64, len(run))
        stream.first_ms, stream.last_ms = min(stream.first_ms, int(times.min())), max(stream.last_ms, int(times.max()))
        _add_hours(stream, stream.ranks, coded.codes, coded.strata, times // _HOUR_MS)
        for start, kept in zip(stream.starts, stream.kept, strict=True):
            low, high = max(start - stream.rows, 0), min(start + stream.length - stream.rows, len(run))
            if low < high:
                kept += run[low:high]
        stream.rows += len(run)


def _ranks(reference: Reference) -> Floats:
    """Mid-ranks `[strata, columns, codes]`."""
    width = max(len(column.strata[0].counts) for column in reference.columns)
    counts = np.zeros((reference.strata, len(reference.columns), width), dtype=np.int64)
    for i, column in enumerate(reference.columns):
        for stratum, bins in enumerate(column.strata):
            counts[stratum, i, : len(bins.counts)] = bins.counts
    return np.stack([mid_ranks(part) for part in counts])


def _add_hours(stream: _Watched, ranks: Floats, codes: Codes, strata: Codes, hours: Ints) -> None:
    present, where = np.unique(hours, return_inverse=True)
    sums = np.zeros((len(present), 1 + codes.shape[1]))
    np.add.at(sums[:, 0], where, 1)
    np.add.at(sums[:, 1:], where, ranks[strata[:, None], np.arange(codes.shape[1]), codes])
    for hour, sum_ in zip(present.tolist(), sums, strict=True):
        stream.hours[hour] = stream.hours[hour] + sum_ if hour in stream.hours else sum_


def _hours_of(stream: _Watched) -> Hours:
    hour = np.array(sorted(stream.hours), dtype=np.int64)
    sums = np.array([stream.hours[h] for h in hour.tolist()])
    return Hours(hour, sums[:, 0].astype(np.int64), sums[:, 1:] / sums[:, :1], np.full(sums.shape[1] - 1, 1 / 12))


# --- one stream -----------------------------------------------------------------------------------------------------


def _stream_report(key: StreamKey, stream: _Watched, replayed: Summary, settings: Settings) -> StreamReport:
    """False alarms and rhythm; the smallest changes are still to be sought."""
    told = replayed.streams[key]
    detection = settings.for_model(key.model).detection
    columns = stream.reference.columns
    promised = 1e6 / whole_budget(stream.reference, detection.budget_events) / len(columns)
    timed = stream.last_ms > stream.first_ms
    rhythm = explained(_hours_of(stream)) if timed else np.zeros(len(columns))
    report = StreamReport(
        key.model, str(key), stream.rows, detection.budget_events,
        stream.rows * WEEK_MS / (stream.last_ms - stream.first_ms) if timed else None,
        len(stream.starts), stream.reference.season, [],
    )  # fmt: skip
    for i, column in enumerate(columns):
        seen = told.columns.get(column.name)
        alarms = seen.fired if seen else 0
        drifting = bool(seen and seen.last and seen.last.state is not State.RESOLVED)
        exclude = why_exclude(column, stream.counts[i], float(rhythm[i]), alarms)
        found = ColumnReport(
            column.name, column.role, column.kind, alarms, 1e6 * alarms / stream.rows,
            1e6 * at_most(alarms) / stream.rows, promised, drifting, float(rhythm[i]), exclude=exclude,
        )  # fmt: skip
        report.columns.append(found)
    if timed and stream.reference.season is Season.NONE:
        choice = choose(_hours_of(stream))
        if choice.season is not Season.NONE:
            report.notes.append(f"build the reference with --season {choice.season}: {choice.reason}")
    return report


def _seek(report: StreamReport, stream: _Watched, settings: Settings, limits: Limits) -> Iterator[str]:
    """Find the smallest changes, kind by kind."""
    columns = stream.reference.columns
    tried = list(range(len(columns)))[: limits.columns]
    within = stream.length - stream.lead
    if within < PANE_ROWS:
        report.notes.append(f"{stream.rows:,} rows are too few to put changes in")
        return
    if within < WITHIN_ROWS:
        report.notes.append(f"too few rows for {WITHIN_ROWS:,} after a change: it has to be found within {within:,}")
    if len(tried) < len(columns):
        report.notes.append(f"the smallest change was sought for the first {len(tried)} of {len(columns)} columns")
    detection = settings.for_model(report.model).detection
    budget_rows = whole_budget(stream.reference, detection.budget_events)
    whole = [rows for rows in stream.kept if len(rows) == stream.length]
    trials = Trials(stream.reference, whole, within, detection.params()["evidence"], budget_rows, limits.seed)
    for change in RANGES:
        for i, found in trials.smallest(change, tried).items():
            report.columns[i].smallest.append(found)
        yield change
