"""Training rows → a reference document.

Two passes over rows that can be read again: the first learns what columns there are and where their bins should lie,
the second counts exactly. A third follows only where the stream has a season, and one more where it has segments. The
same rows in the same order give the same document, byte for byte, however many there are. Pure but for the reading,
which is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.association import MAX_ROWS as MAX_RELATION_ROWS
from stream_monitor.association import learn as learn_relations
from stream_monitor.codes import FIRST_BIN, NEW, OTHER
from stream_monitor.collected import Collected
from stream_monitor.draft import Draft, draft, split
from stream_monitor.errors import DataError
from stream_monitor.events import Row
from stream_monitor.features import column_name
from stream_monitor.fit_segments import SegmentTally
from stream_monitor.learn import CHUNK, Learner
from stream_monitor.options import FitOptions
from stream_monitor.reference import MAX_DOCUMENT_BYTES, Bins, Column, Kind, Reference, Season, Source, StreamKey
from stream_monitor.season import choose, pool
from stream_monitor.segments import choose as choose_segments
from stream_monitor.tally import Tally

__all__ = ["FitOptions", "ReferenceBuilder", "build_references", "fit"]

Counts = npt.NDArray[np.int64]
Chunks = Iterable[Sequence[Row]]

_MOST_STRATUM_COLUMNS: Final = 10_000
"""Strata × columns a document may have, so that it stays readable for a broker."""
_FEW_DESCENTS: Final = 0.01
"""Share of rows that may be earlier than the row before, as live streams have them, without being called unordered."""
_FEWEST_INDEPENDENT: Final = 100
"""A column worth fewer independent rows than this is noted."""
_PENDING_CELLS: Final = 250_000
_ROW_CELLS: Final = 10
"""What a row costs beside its features, in features."""


def fit(rows: Sequence[Row], stream: StreamKey, options: FitOptions | None = None) -> Reference:
    """The reference of rows in memory, as a warm-up collects them: their order is taken for the stream's.

    Raises DataError where there is nothing to watch.
    """
    options = options or FitOptions(ordered=True)
    builder = ReferenceBuilder(stream, options)
    while builder.next_pass():
        for start in range(0, len(rows), CHUNK):
            builder.add(rows[start : start + CHUNK])
    return builder.build("stream")


def build_references(
    source: Callable[[], Chunks], options: FitOptions | None = None, files: Sequence[str] = ()
) -> list[Reference]:
    """The references of all streams in a source that can be read again (`source()` starts afresh), by stream.

    Raises DataError where there are no rows or nothing to watch.
    """
    options = options or FitOptions()
    builders: dict[StreamKey, ReferenceBuilder] = {}
    for stream, rows in _by_stream(source()):
        if stream not in builders:
            builders[stream] = ReferenceBuilder(stream, options)
            builders[stream].next_pass()
        builders[stream].add(rows)
        while sum(builder.kept_values for builder in builders.values()) > options.most_values:
            if not sum(builder.thin() for builder in builders.values()):
                break
    if not builders:
        raise DataError(f"{', '.join(files) or 'the source'}: no rows")
    for builder in builders.values():
        builder.memory_share = 1 / len(builders)
    while unfinished := {stream for stream, builder in builders.items() if builder.next_pass()}:
        for stream, rows in _by_stream(source()):
            if stream in unfinished:
                builders[stream].add(rows)
    return [builders[stream].build("file", files) for stream in sorted(builders)]


def _by_stream(chunks: Chunks) -> Iterator[tuple[StreamKey, list[Row]]]:
    """The rows of each stream in order, in runs that are long where memory allows."""
    pending: dict[StreamKey, list[Row]] = {}
    cells = 0
    for rows in chunks:
        for row in rows:
            pending.setdefault(StreamKey(row.model, row.version, row.segment), []).append(row)
            cells += _ROW_CELLS + len(row.features)
        if cells > _PENDING_CELLS or len(pending) == 1:
            yield from pending.items()
            pending, cells = {}, 0
    yield from pending.items()


class ReferenceBuilder:
    """Builds the reference of one stream.

    `next_pass`, then all rows by `add`, and again until `next_pass` says False; then `build`. `memory_share`: of the
    memory that the passes after the first may take.
    """

    memory_share = 1.0

    def __init__(self, stream: StreamKey, options: FitOptions) -> None:
        self._stream = stream
        self._options = options
        self._learner: Learner | None = None
        self._draft: Draft | None = None
        self._tally: Tally | None = None
        self._outcomes = Collected()
        self._segments: SegmentTally | None = None
        self._notes: list[str] = []
        self._done = False

    def next_pass(self) -> bool:
        """End the pass that was; whether there has to be another. Raises DataError if nothing can be watched."""
        if self._learner is None:
            self._learner = Learner(self._options)
        elif self._draft is None or self._tally is None:
            self._draft = draft(self._learner, self._stream, self._options)
            self._tally = self._new_tally(self._draft.reference, hourly=self._options.season != Season.NONE)
        elif self._segments is not None:
            self._done = True
        elif self._draft.reference.season is not Season.NONE or not self._split_by_season(self._draft, self._tally):
            self._done = not self._choose_segments(self._draft, self._tally)
        return not self._done

    def _new_tally(self, reference: Reference, *, hourly: bool = False) -> Tally:
        return Tally(reference, self.memory_share, hourly=hourly, together=_places(reference, self._options.segment_by))

    def _choose_segments(self, found: Draft, tally: Tally) -> bool:
        """Begin the pass over the segments, if any are asked for."""
        by, options = self._options.segment_by, self._options
        if not by:
            return False
        columns = [found.reference.columns[place] for place in _places(found.reference, by)]
        self._notes += [f"segments: no row has a value of {each.name!r}" for each in columns if not each.categories]
        chosen = choose_segments(found.reference, by, tally.joint, options.max_segments, options.segment_rows)
        self._notes += chosen.notes
        self._segments = SegmentTally(found.reference, chosen, self.memory_share)
        return True

    def add(self, rows: Sequence[Row]) -> None:
        if self._done:
            return
        if self._segments is not None:
            self._segments.add(rows)
        elif self._tally is not None:
            self._tally.add(rows)
        elif self._learner is not None:
            self._learner.add(rows)
            self._outcomes.add(rows)

    @property
    def kept_values(self) -> int:
        """Numbers kept in memory by the first pass."""
        return self._learner.kept_values if self._learner else 0

    def thin(self) -> bool:
        """Keep half of them; False if there are too few for that."""
        return self._learner is not None and self._learner.thin()

    def build(self, origin: str, files: Sequence[str] = ()) -> Reference:
        """The reference, after the last pass."""
        assert self._draft is not None  # there is one when `next_pass` has said False
        assert self._tally is not None
        tally, found = self._tally, self._draft
        if tally.rows != found.reference.source.rows:
            raise DataError(
                f"{self._stream}: {found.reference.source.rows} rows at first, {tally.rows} when read again: "
                "the source changed meanwhile; build from a copy"
            )
        by_time, ordered = self._order(tally)
        times, repeats = tally.dependence(by_time=by_time) if ordered else ([1.0] * len(found.learned), None)
        columns, kept, new = [], [], {}
        for i, column in enumerate(found.reference.columns):
            counts = tally.counts[:, i, : FIRST_BIN + column.bins]
            kept.append(_kept(column, counts))
            if column.kind is Kind.CATEGORICAL and column.exhaustive:
                counts = _leave_one_out(counts, found.singles[i])
                new[i] = float(counts[:, NEW].sum() / max(counts[:, [NEW, OTHER]].sum(), 1))
            repeat = repeats[i] if repeats else None
            columns.append(_counted(column, counts, kept[i], times[i], repeat))
            if tally.rows / times[i] < _FEWEST_INDEPENDENT <= tally.rows:
                self._notes.append(f"{column.name}: only as good as {tally.rows / times[i]:.0f} independent rows")
        if self._options.ordered is None and not tally.timed:
            self._notes.append(_untimed([column.name for column in columns], times))
        first, last = (tally.first_time_ms, tally.last_time_ms) if tally.timed else (None, None)
        source = Source(origin, tally.rows, [*files], first, last, ordered, self._notes)
        reference = msgspec.structs.replace(found.reference, columns=columns, source=source)
        performance = self._outcomes.learn(by_time=by_time, ordered=ordered)
        if performance is not None:
            reference = msgspec.structs.replace(reference, performance=performance)
        if self._segments is not None:
            parts = self._segments.build(reference, kept, new, ordered=ordered, by_time=by_time, notes=self._notes)
            reference = msgspec.structs.replace(reference, segment_by=[*self._options.segment_by], segments=parts)
        if self._options.relations:
            codes = tally.first_codes(kept)[:MAX_RELATION_ROWS]
            relations = learn_relations(columns, codes)
            if relations is not None:
                reference = msgspec.structs.replace(reference, relations=relations)
            if relations is not None and performance is not None and ordered:
                with_label = self._outcomes.relate(reference, relations, codes, by_time=by_time)
                if with_label is not None:
                    performance = msgspec.structs.replace(performance, relations=with_label)
                    reference = msgspec.structs.replace(reference, performance=performance)
        if (size := len(reference.to_json())) > MAX_DOCUMENT_BYTES:
            raise DataError(
                f"{self._stream}: a reference of {size} bytes, {MAX_DOCUMENT_BYTES} fit: watch fewer columns"
            )
        return reference

    def _split_by_season(self, found: Draft, tally: Tally) -> bool:
        """Draft again, by stratum, if the stream has a season; whether it has."""
        asked = self._options.season
        if asked == Season.NONE or not tally.timed:
            if asked not in (Season.NONE, "auto"):
                raise DataError(f"season {asked}: the rows carry no time stamps; name the time column, or use none")
            return False
        hours = tally.hours()
        season = Season(asked) if asked != "auto" else Season.NONE
        if asked == "auto":
            choice = choose(hours)
            season = choice.season
            if season is Season.NONE:
                return False
            self._notes.append(f"season {season}: {choice.reason}")
        most = max(1, _MOST_STRATUM_COLUMNS // len(found.learned))
        slots = pool(hours, season, self._options.stratum_rows, most)
        if max(slots) == 0:
            self._notes.append(f"season {season}: too few rows for more than one stratum, so none is used")
            return False
        assert self._learner is not None  # there is one before there is a draft
        self._draft = split(found, self._learner, season, slots)
        self._tally = self._new_tally(self._draft.reference)
        return True

    def _order(self, tally: Tally) -> tuple[bool, bool]:
        """Whether to sort by time, and whether the order of the events is known then."""
        if self._options.ordered:
            return False, True
        if self._options.ordered is False:
            self._notes.append(
                "the rows are unordered: how much events depend on one another is measured on the live stream"
            )
            return False, False
        if not tally.timed or not tally.descents:
            return False, True
        if tally.complete:
            self._notes.append("the rows were not in the order of their time stamps and have been sorted")
            return True, True
        if tally.descents <= _FEW_DESCENTS * tally.rows:
            self._notes.append(f"{tally.descents} rows are earlier than the row before; their order is kept")
            return False, True
        self._notes.append(
            "the rows are not in the order of their time stamps, and too many to be sorted: how much events depend on "
            "one another is measured on the live stream; better sort the file by time"
        )
        return False, False


def _untimed(names: Sequence[str], times: Sequence[float]) -> str:
    """What the order of rows without time stamps is taken for: dependence proves it, nothing proves independence."""
    most = max(range(len(times)), key=times.__getitem__, default=0)
    if times and times[most] > 1:
        return (
            f"no time stamps: the order of the rows is that of the events, as {names[most]} depends on the rows before "
            f"(they are worth 1 / {times[most]:.3g} as many independent ones)"
        )
    return (
        "no time stamps, and no column depends on the rows before: so do independent events look, and so does a "
        "shuffled file. Was it shuffled (as by train_test_split)? Then build with --unordered, or slow features will "
        "cry wolf"
    )


def _places(reference: Reference, features: Sequence[str]) -> list[int]:
    """The columns of the features that make the segments; raises DataError where there is none."""
    places = {column.name: i for i, column in enumerate(reference.columns)}
    if lost := [feature for feature in features if column_name(feature) not in places]:
        raise DataError(f"{reference.stream}: {', '.join(lost)} cannot make segments, being no watched column")
    return [places[column_name(feature)] for feature in features]


def _kept(column: Column, counts: Counts) -> npt.NDArray[np.bool_]:
    """Which codes the finished column has: all but the numeric bins that are empty in every stratum."""
    keep = np.ones(counts.shape[1], dtype=np.bool_)
    if column.kind is Kind.NUMERIC:
        keep[FIRST_BIN:-1] = counts[:, FIRST_BIN:-1].any(axis=0)
    return keep


def _counted(
    column: Column, counts: Counts, keep: npt.NDArray[np.bool_], autocorrelation_time: float, repeat: float | None
) -> Column:
    """The column with its exact counts `[strata, codes]` of the codes that are kept."""
    strata = []
    for bins, row in zip(column.strata, counts, strict=True):
        edges = [edge for edge, kept in zip(bins.edges, keep[FIRST_BIN:].tolist(), strict=False) if kept]
        strata.append(Bins(row[keep].tolist(), edges, bins.low))
    return msgspec.structs.replace(column, strata=strata, autocorrelation_time=autocorrelation_time, repeat=repeat)


def _leave_one_out(counts: Counts, singles: int) -> Counts:
    """A category seen once is, to all other rows, a new one: count it so (Good and Turing's estimate of what is to
    come). Counts keep their sum."""
    counts = counts.copy()
    for _ in range(min(singles, int(counts[:, OTHER].sum()))):
        fullest = counts[:, OTHER].argmax()  # where each of them was is not known
        counts[fullest, OTHER] -= 1
        counts[fullest, NEW] += 1
    return counts
