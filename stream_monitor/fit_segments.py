"""The pass over training rows that counts segment by segment, under the bins of the whole stream. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.codes import NEW, OTHER
from stream_monitor.encode import Binner
from stream_monitor.events import Row
from stream_monitor.packed import plain
from stream_monitor.reference import MAX_DOCUMENT_BYTES, Kind, Reference, Segment, SegmentColumn
from stream_monitor.segments import Chosen, Router, watched_columns
from stream_monitor.tally import Tally, times_of

Counts = npt.NDArray[np.int64]
Kept = npt.NDArray[np.bool_]


class SegmentTally:
    """Counts the rows of chosen segments; `draft`: the reference whose bins (and categories) the codes are of."""

    def __init__(self, draft: Reference, chosen: Chosen, memory_share: float) -> None:
        self._draft = draft
        self._segments = chosen.segments
        self._binner = Binner(draft)
        self._router = Router(msgspec.structs.replace(draft, segments=chosen.segments))
        share = memory_share / max(len(chosen.segments), 1)
        self._tallies = [Tally(draft, share) for _ in chosen.segments]

    def add(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        coded, times = self._binner.encode(rows), times_of(rows)
        for number, own in self._router.split(coded.codes):
            self._tallies[number].add_codes(coded.codes[own], coded.strata[own], times[own])

    def build(self, whole: Reference, kept: Sequence[Kept], new: Mapping[int, float], *, ordered: bool, by_time: bool,
              notes: list[str]) -> list[Segment]:  # fmt: skip
        """The segments with their counts. `kept`: by column the codes that the finished reference still has. `new`: by
        column the share of `other` rows whose name was new to all rows before. A segment without rows in a stratum has
        nothing to be compared with there: it is left out, and so are the smallest ones a document has no room for."""
        built, empty, surplus = [], 0, 0  # notes name no values: those may be private
        for segment, tally in zip(self._segments, self._tallies, strict=True):
            if tally.counts[:, 0].sum(axis=1).all():
                built.append(self._one(segment, tally, kept, new, ordered=ordered, by_time=by_time))
            else:
                empty += 1
        room = MAX_DOCUMENT_BYTES - len(whole.to_json()) - 65_536
        sizes = {id(segment): len(msgspec.json.encode(segment, enc_hook=plain)) for segment in built}
        while built and sum(sizes[id(segment)] for segment in built) > room:
            built.remove(min(built, key=lambda segment: (segment.rows, segment.name)))
            surplus += 1
        if empty:
            notes.append(f"segments: not watched, having no rows in some hours of the season: {empty}")
        if surplus:
            notes.append(f"segments: not watched, the document having no room for them: {surplus}")
        return built

    def _one(self, segment: Segment, tally: Tally, kept: Sequence[Kept], new: Mapping[int, float], *, ordered: bool,
             by_time: bool) -> Segment:  # fmt: skip
        whole = self._draft
        times, repeats = tally.dependence(by_time=by_time and tally.complete) if ordered else ([1.0] * len(kept), None)
        columns = []
        for i in watched_columns(whole, segment).tolist():
            counts = tally.counts[:, i, : len(kept[i])].copy()
            if whole.columns[i].kind is Kind.CATEGORICAL and i in new:
                moved = np.ceil(counts[:, OTHER] * new[i]).astype(np.int64)
                counts[:, OTHER] -= moved
                counts[:, NEW] += moved
            repeat = repeats[i] if repeats else None
            columns.append(SegmentColumn(counts[:, kept[i]].tolist(), times[i], repeat))
        return msgspec.structs.replace(segment, rows=tally.rows, columns=columns)
