"""What the detection is worth on one's own data: false alarms on data without drift, the smallest change that is
found, and the configuration that follows.

False alarms are those of a whole replay. The smallest change is found by bisection: known changes of every column are
put into windows of the data at random places (seeded), after a lead that brings the detectors to where they would be,
and the detector `evidence` alone has to find them, which is what leads; the others can only be faster. Windows in which
a column fires by itself do not count. All columns share a run: evidence watches each by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import special

from stream_monitor.alerts import State
from stream_monitor.book import FIRST_EPOCH, ReferenceBook, key_of
from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, INVALID, MISSING, NEW, OTHER
from stream_monitor.config import Settings
from stream_monitor.dependence import mid_ranks
from stream_monitor.detectors.ensemble import DetectorSet
from stream_monitor.encode import Binner, number
from stream_monitor.encode_stage import categorical, route
from stream_monitor.errors import DataError
from stream_monitor.events import Row
from stream_monitor.inject import value_of
from stream_monitor.privacy import veil_of
from stream_monitor.reference import Column, Kind, Reference, Season, StreamKey
from stream_monitor.replay import Replay, Summary
from stream_monitor.season import Hours, choose, explained
from stream_monitor.segments import whole_budget

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

WITHIN_ROWS: Final = 1_000
LEAD_ROWS: Final = 500
PANE_ROWS: Final = 100
ENOUGH: Final = 0.8
"""Share of the windows a change has to be found in."""
STEPS: Final = 7
FEWEST_WINDOWS: Final = 3
NEAR_CONSTANT: Final = 0.999
UNKNOWN_NAMES: Final = 0.5
"""A categorical column with more values than this outside its listed categories is taken for an identifier."""
TOO_RHYTHMIC: Final = 0.1
"""Share of a column's variance that the hour may explain beyond the reference's season."""
WEEK_MS: Final = 7 * 24 * 3_600_000
LEAST_BUDGET: Final = 100_000
_HOUR_MS: Final = 3_600_000
_RANGES: Final = {"mean": (0.01, 6.0), "share": (0.002, 1.0), "new": (0.001, 1.0), "null": (0.001, 1.0)}
UNITS: Final = {"mean": "sd", "share": "share", "new": "share", "null": "share"}


@dataclass(slots=True)
class Smallest:
    """The smallest change found within `within` rows in four of five windows; None: not even the largest one tried.

    `change`: mean (in sd of the reference), share (of a known category), new (share of an unseen one), null (rate).
    `windows`: those that counted.
    """

    change: str
    amount: float | None
    unit: str
    within: int
    windows: int


@dataclass(slots=True)
class ColumnReport:
    """One column: false alarms of the replay beside the promise, the smallest changes found, and what to do about it.

    `alarms_at_most`: the rate per 10⁶ rows that as few alarms leave possible (95 %, Poisson). `rhythm`: share of its
    variance that the hour explains beyond the season of the reference.
    """

    column: str
    role: str
    kind: str
    alarms: int
    alarms_per_million: float
    alarms_at_most: float
    promised_per_million: float
    drifting_at_end: bool
    rhythm: float
    smallest: list[Smallest] = field(default_factory=list)
    exclude: str = ""


@dataclass(slots=True)
class StreamReport:
    """One stream. `events_per_week` None: the rows carry no times."""

    model: str
    stream: str
    rows: int
    budget_events: int
    events_per_week: float | None
    windows: int
    season: str
    columns: list[ColumnReport]
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """Everything found. `config`: the recommended configuration, as the YAML file has it."""

    streams: list[StreamReport]
    rows: int
    rows_without_reference: int
    config: dict[str, Any] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)


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

    replayed: Summary
    watched: dict[StreamKey, _Watched]


def gather(
    chunks: Callable[[], Iterable[Sequence[Row]]], settings: Settings, references: Sequence[Reference], limits: Limits
) -> Gathered:
    """Read the rows twice (`chunks()` starts afresh): replay them, and keep the windows. Raises DataError where no row
    has a reference."""
    replay = Replay(settings, references, lambda _: None)
    for rows in chunks():
        replay.feed(rows)
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
    return Gathered(replay.summary, watched)


def assess(
    gathered: Gathered,
    settings: Settings,
    limits: Limits,
    advance: Callable[[int, int], None] = lambda _done, _of: None,
) -> Report:
    """Evaluate what was gathered; `advance` is told how many steps are done, and of how many."""
    watched, replayed = gathered.watched, gathered.replayed
    steps = len(watched) * len(_RANGES)
    streams = []
    for number_, (key, stream) in enumerate(watched.items()):
        report = _stream_report(key, stream, replayed, settings)
        for step, _ in enumerate(_seek(report, stream, settings, limits)):
            advance(number_ * len(_RANGES) + step + 1, steps)
        streams.append(report)
    report_ = Report(streams, replayed.rows, replayed.rows - sum(stream.rows for stream in watched.values()))
    _recommend(report_)
    return report_


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
        exclude = _why_exclude(column, stream.counts[i], float(rhythm[i]), alarms)
        found = ColumnReport(
            column.name, column.role, column.kind, alarms, 1e6 * alarms / stream.rows,
            1e6 * _at_most(alarms) / stream.rows, promised, drifting, float(rhythm[i]), exclude=exclude,
        )  # fmt: skip
        report.columns.append(found)
    if parts := {part.name for part in stream.reference.parts}:
        each = [told for other, told in replayed.streams.items()
                if other[:2] == key[:2] and other.segment in parts and not key.segment]  # fmt: skip
        fired = sum(column.fired for told in each for column in told.columns.values())
        report.notes.append(f"alarms in its {len(parts)} segments, which have half of the budget: {fired}")
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
    trials = _Trials(stream, detection.params()["evidence"], budget_rows, limits.seed)
    for change in _RANGES:
        for i, found in trials.smallest(change, tried).items():
            report.columns[i].smallest.append(found)
        yield change


def _at_most(alarms: int) -> float:
    """The Poisson mean that as few alarms rule out at 95 %.

    >>> round(_at_most(0), 2)
    3.0
    """
    low, high = float(alarms), alarms + 5 * math.sqrt(alarms + 1) + 5
    for _ in range(60):
        middle = (low + high) / 2
        tail = math.exp(-middle) * sum(middle**k / math.factorial(k) for k in range(min(alarms, 150) + 1))
        low, high = (middle, high) if tail > 0.05 else (low, middle)
    return high


def _why_exclude(column: Column, counts: Ints, rhythm: float, alarms: int) -> str:
    """Why the column is better not watched; "" if it may stay."""
    seen = int(counts.sum())
    reference = np.sum([bins.counts for bins in column.strata], axis=0)
    if column.kind is Kind.CATEGORICAL and seen:
        strange = float(counts[NEW] + counts[OTHER]) / seen
        if strange > UNKNOWN_NAMES:
            return f"{strange:.0%} of its values are in no listed category, like an identifier"
    most = float(reference.max()) / max(float(reference.sum()), 1.0)
    if most > NEAR_CONSTANT:
        return f"near-constant: {most:.2%} of the training values are alike"
    if rhythm > TOO_RHYTHMIC and alarms:
        return f"too rhythmic for the reference's season: the hour explains another {rhythm:.0%} of its variance"
    return ""


class _Trials:
    """Changes put into the windows of one stream."""

    def __init__(self, stream: _Watched, params: object, budget_events: float, seed: int) -> None:
        self._columns = stream.reference.columns
        source = msgspec.structs.replace(stream.reference.source, ordered=True)  # a window is too short to be paced by
        reference = msgspec.structs.replace(stream.reference, source=source)
        self._detectors = DetectorSet(reference, {"evidence": params}, budget_events)
        self._fresh = self._detectors.states()
        self._lead = stream.lead
        self._within = stream.length - self._lead
        coded = [stream.binner.encode(rows) for rows in stream.kept if len(rows) == stream.length]
        self._codes = [c.codes for c in coded]
        self._strata = [c.strata for c in coded]
        self._rows = [rows[self._lead :] for rows in stream.kept if len(rows) == stream.length]
        self._chance = np.random.default_rng([seed, 7]).random((len(coded), self._within, len(self._columns)))
        self._values: dict[int, list[Floats]] = {}
        self._pools: dict[int, Floats] = {}
        self._leads: list[tuple[Any, Mask]] = []
        for codes, strata in zip(self._codes, self._strata, strict=True):
            self._detectors.restore(self._fresh)
            fired = self._feed(codes[: self._lead], strata[: self._lead], 0)
            self._leads.append((self._detectors.states(), fired >= 0))

    def smallest(self, change: str, columns: Sequence[int]) -> dict[int, Smallest]:
        """By column that can change so: the smallest change found, all columns bisected at once."""
        tried = [i for i in columns if self._can(change, self._columns[i])]
        if not tried or not self._codes:
            return {}
        low, high = _RANGES[change]
        lows, highs = np.full(len(tried), math.log(low)), np.full(len(tried), math.log(high))
        quiet = self._found(change, tried, np.zeros(len(tried)))
        usable = np.array([~quiet[:, j] & ~self._void(i) for j, i in enumerate(tried)]).T
        count = usable.sum(axis=0)

        def enough(amounts: Floats) -> Mask:
            found = self._found(change, tried, amounts) & usable
            result: Mask = found.sum(axis=0) >= ENOUGH * np.maximum(count, 1)
            return result

        possible = enough(np.exp(highs)) & (count >= FEWEST_WINDOWS)
        for _ in range(STEPS):
            middle = (lows + highs) / 2
            hit = enough(np.exp(middle))
            highs, lows = np.where(hit, middle, highs), np.where(hit, lows, middle)
        within, unit = self._within, UNITS[change]
        said = [self._said(change, i, high) if ok else None for i, high, ok in zip(tried, highs, possible, strict=True)]
        return {i: Smallest(change, said[j], unit, within, int(count[j])) for j, i in enumerate(tried)}

    def _can(self, change: str, column: Column) -> bool:
        if change == "mean":
            return column.kind is Kind.NUMERIC and bool(column.sd)
        if change == "share":
            return column.kind is Kind.CATEGORICAL and column.bins > 1
        return change == "null" or (column.kind is Kind.CATEGORICAL and column.exhaustive)

    def _void(self, column: int) -> Mask:
        return np.array([fired[column] for _, fired in self._leads])

    def _said(self, change: str, column: int, log_amount: float) -> float:
        """An amount as it is reported: by how many sd the mean moves, by how much the share of a category grows."""
        amount, it = math.exp(log_amount), self._columns[column]
        if change == "mean":
            moves = [self._shifted(column, w, amount) - values for w, values in enumerate(self._numbers(column))]
            amount = float(np.nanmean(np.concatenate(moves))) / (it.sd or 1.0)
        elif change == "share":
            counts = np.sum([bins.counts for bins in it.strata], axis=0)
            amount *= 1 - float(counts[self._target(column)]) / float(counts.sum())
        return float(f"{amount:.2g}")

    def _target(self, column: int) -> int:
        """The category whose share grows: the second most common."""
        return FIRST_BIN + 1

    def _found(self, change: str, columns: Sequence[int], amounts: Floats) -> Mask:
        """`[windows, columns]`: whether a change by so much was found in time."""
        found = np.zeros((len(self._codes), len(columns)), dtype=np.bool_)
        for window, (codes, strata) in enumerate(zip(self._codes, self._strata, strict=True)):
            changed = codes[self._lead :].copy()
            for i, amount in zip(columns, amounts.tolist(), strict=True):
                if amount:
                    changed[:, i] = self._changed(change, window, i, amount, changed[:, i], strata[self._lead :])
            self._detectors.restore(self._leads[window][0])
            found[window] = self._feed(changed, strata[self._lead :], self._lead)[list(columns)] >= 0
        return found

    def _changed(self, change: str, window: int, column: int, amount: float, codes: Codes, strata: Codes) -> Codes:
        if change == "mean":
            moved = self._shifted(column, window, amount)
            return np.where(np.isnan(moved), codes, numeric_codes(self._columns[column], moved, strata))
        code = {"share": self._target(column), "new": NEW, "null": MISSING}[change]
        return np.where(self._chance[window, :, column] < amount, np.uint8(code), codes)

    def _shifted(self, column: int, window: int, amount: float) -> Floats:
        """The window's values moved up by `amount` normal scores among all values of the column, NaN where there is no
        number. Unlike an added constant this gives no value that the column never has, however it is bounded or
        rounded; for a normal column it is the same."""
        values, pool = self._numbers(column)[window], self._pool(column)
        low, high = np.searchsorted(pool, values, "left"), np.searchsorted(pool, values, "right")
        level = (low + self._chance[window, :, column] * (high - low)) / max(len(pool), 1)
        moved = special.ndtr(special.ndtri(np.clip(level, 1e-9, 1 - 1e-9)) + amount)
        place = np.minimum((moved * len(pool)).astype(np.int64), len(pool) - 1)
        return np.where(np.isfinite(values), pool[place], np.nan) if len(pool) else np.full(len(values), np.nan)

    def _pool(self, column: int) -> Floats:
        """All finite values of the windows, sorted."""
        if column not in self._pools:
            values = np.concatenate(self._numbers(column))
            self._pools[column] = np.sort(values[np.isfinite(values)])
        return self._pools[column]

    def _numbers(self, column: int) -> list[Floats]:
        if column not in self._values:
            it = self._columns[column]
            self._values[column] = [np.array([number(value_of(row, it)) for row in rows]) for rows in self._rows]
        return self._values[column]

    def _feed(self, codes: Codes, strata: Codes, first_row: int) -> Ints:
        """Rows through the detector; by column the row of its first signal, −1 if it is silent."""
        fired = np.full(codes.shape[1], -1, dtype=np.int64)
        for start in range(0, len(codes), PANE_ROWS):
            part = slice(start, start + PANE_ROWS)
            for signal in self._detectors.update(np.ascontiguousarray(codes[part]), strata[part], first_row + start):
                if fired[signal.column] < 0:
                    fired[signal.column] = signal.row
        return fired


def numeric_codes(column: Column, values: Floats, strata: Codes) -> Codes:
    """Codes of finite numbers (anything else is invalid): `encode.code_of`, an array at a time."""
    codes = np.full(len(values), INVALID, dtype=np.uint8)
    for stratum in np.unique(strata).tolist():
        bins = column.strata[stratum]
        here = (strata == stratum) & np.isfinite(values)
        x, edges = values[here], np.array(bins.edges)
        found = np.where(x < bins.low, BELOW, FIRST_BIN + np.searchsorted(edges, x, side="left"))
        codes[here] = np.where(x > edges[-1], ABOVE, found) if len(edges) else ABOVE
    return codes


# --- what follows ---------------------------------------------------------------------------------------------------


def _recommend(report: Report) -> None:
    """A configuration by model, and advice in words."""
    models: dict[str, list[StreamReport]] = {}
    for stream in report.streams:
        models.setdefault(stream.model, []).append(stream)
    known = [stream.events_per_week for stream in report.streams if stream.events_per_week is not None]
    entries = []
    for model, streams in models.items():
        excluded = sorted({c.column for stream in streams for c in stream.columns if c.exclude and c.role == "input"})
        entry: dict[str, Any] = {"match": model}
        if excluded:
            entry["features"] = {"exclude": excluded}
        if known:
            entry["detection"] = {"budget_events": nice(max(sum(known), LEAST_BUDGET))}
        if len(entry) > 1:
            entries.append(entry)
    report.config = {"models": entries} if entries else {}
    if known:
        report.advice.append(
            f"{sum(known):,.0f} events a week: a budget of {nice(max(sum(known), LEAST_BUDGET)):,} events a stream "
            "keeps false alarms below one a week"
        )
    else:
        report.advice.append(
            "the rows carry no times (--time), so the rate of events, and the budget, are yours to tell"
        )
    for stream in report.streams:
        drifting = [column.column for column in stream.columns if column.drifting_at_end]
        if drifting:
            report.advice.append(
                f"{stream.stream}: still drifting at the end: {', '.join(drifting)}; if they should count as normal, "
                "build the reference from more of them"
            )


def nice(least: float) -> int:
    """The next of 1, 2, 5, 10, …

    >>> nice(7300), nice(100000), nice(2.1e6)
    (10000, 100000, 5000000)
    """
    power = 10 ** math.floor(math.log10(least))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= least))
