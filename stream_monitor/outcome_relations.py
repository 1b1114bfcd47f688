"""Alerts about relations of a stream's inputs with its label, outcome by outcome. Pure.

Rows are the outcomes whose inputs were coded under the reference in force, in the order in which they became known.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import Alert, AlertKind
from stream_monitor.batch import Origins
from stream_monitor.detectors.outcome_pairs import OutcomePairs
from stream_monitor.detectors.pair_sums import BLOCK
from stream_monitor.detectors.pairs import EVERY
from stream_monitor.outcome_levels import Packed, label_levels, mark_of, unpack
from stream_monitor.reference import OutcomeRelations, StreamKey
from stream_monitor.relations import Policy, Relating
from stream_monitor.trail import Trail

LOOK_ROWS: Final = EVERY * BLOCK


class OutcomeRelating:
    """`relations`, `times`: of the reference in force, which is of that `generation`; `alpha` as of `OutcomePairs`."""

    def __init__(
        self,
        stream: StreamKey,
        digest: str,
        relations: OutcomeRelations,
        generation: int,
        alpha: float,
        min_change: float,
        policy: Policy,
    ) -> None:
        self.mark = mark_of(generation)
        self.trail = Trail(len(relations.columns) + 1)
        self._edges = relations.edges
        times = [*relations.times, relations.label_time]
        self._times = np.array(times)
        self.relating = Relating(stream, digest, OutcomePairs(relations, times, alpha, min_change), policy)

    def feed(self, packed: Packed, actual: npt.NDArray[np.float64], origins: Origins) -> list[tuple[int, Alert]]:
        """Outcomes in order; the alerts they raise, each with the place of its outcome."""
        rows, levels = unpack(packed, len(self._times) - 1, self.mark)
        label = label_levels(self._edges, actual[rows]).astype(np.uint8)
        codes, origins = np.column_stack([levels, label]), origins.take(rows)
        found: list[tuple[int, Alert]] = []
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + LOOK_ROWS - self.trail.rows % LOOK_ROWS)
            self.trail.extend(codes[start:stop], origins.take(slice(start, stop)))
            if self.trail.rows % LOOK_ROWS == 0:
                alerts = self.relating.end_of_pane(self.trail, self._times, {}, {})
                found += [(int(rows[stop - 1]), alert) for alert in alerts]
            start = stop
        return found

    def end(self, reason: str) -> list[Alert]:
        """Resolve everything open, as of the last outcome."""
        return self.relating.end(self.trail, reason)

    def open_alerts(self) -> list[tuple[AlertKind, str, str, int]]:
        """As of `Scoring`."""
        return [(AlertKind.CORRELATION_DRIFT, subject, episode.id, episode.onset[3])
                for subject, episode in sorted(self.relating.episodes.items())]  # fmt: skip
