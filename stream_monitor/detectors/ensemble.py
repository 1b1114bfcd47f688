"""The detectors of one stream together: one budget, one step, one state."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.detectors import BUILDERS, ERROR_BUILDERS, SHARES
from stream_monitor.detectors.adwin import Adwin
from stream_monitor.detectors.distances import Distances, distances
from stream_monitor.detectors.evidence import Evidence
from stream_monitor.detectors.histogram import Histogram
from stream_monitor.detectors.pacing import Pacing
from stream_monitor.detectors.page_hinkley import PageHinkley
from stream_monitor.detectors.signal import Codes, Detector, Signal, State, Strata
from stream_monitor.detectors.tables import RANK, rank_order, tables_of
from stream_monitor.errors import WireError
from stream_monitor.reference import Reference

RIVER: Final = version("river")  # read from disk: once, not at every save
STATE_SCHEMA: Final = 2
"""Part of every detector's tag: raise it when a detector's arrays change their meaning."""
PANE_ROWS: Final = 100
"""Rows between two looks at recovery, updates and pacing; the histogram's pane."""
_PACING_TAG: Final = "pacing/1"


class DetectorSet:
    """The enabled detectors over all columns of one stream.

    `params`: the frozen parameters of every enabled detector by name; `evidence`, which decides on recovery, always.
    `budget_rows`: mean number of the stream's rows between two false alarms, divided among detectors and columns.
    """

    def __init__(self, reference: Reference, params: Mapping[str, object], budget_rows: float) -> None:
        self._params = params
        self._budget_rows = budget_rows
        self._tags: dict[str, str] = {}
        self._pacing = None if reference.source.ordered else Pacing(reference)
        self._build(reference)

    def _build(self, reference: Reference) -> None:
        """All detectors, fresh."""
        self._reference = reference
        self._tables = tables_of(reference)
        self._detectors: dict[str, Detector] = {
            name: build(reference, self._params[name], SHARES[name] / self._budget_rows)
            for name, build in (BUILDERS | ERROR_BUILDERS).items()
            if name in self._params
        }
        evidence = self._detectors["evidence"]
        assert isinstance(evidence, Evidence)
        self._evidence = evidence
        histogram = self._detectors.get("histogram")
        self._histogram = histogram if isinstance(histogram, Histogram) else None
        self._share_blocks()

    def _share_blocks(self) -> None:
        """ADWIN and Page-Hinkley are fed the same means of blocks: found once, where their blocks are alike (one may
        have been restored, and the other have started cold, or have a length of its own)."""
        adwin, page_hinkley = self._detectors.get("adwin"), self._detectors.get("page_hinkley")
        if isinstance(adwin, Adwin) and isinstance(page_hinkley, PageHinkley):
            shared = adwin.blocks.share(page_hinkley.blocks)
            page_hinkley.blocks = adwin.blocks if shared else page_hinkley.blocks

    def _part_blocks(self) -> None:
        """Each with its own again, to be restored by itself."""
        page_hinkley = self._detectors.get("page_hinkley")
        if isinstance(page_hinkley, PageHinkley):
            page_hinkley.blocks = page_hinkley.blocks.copy()

    def update(self, codes: Codes, strata: Strata, first_row: int) -> list[Signal]:
        """Feed rows `first_row …`, not across a multiple of 100; the detectors' signals, detector by detector."""
        if self._pacing is None or self._pacing.done:
            return self._feed(codes, strata, first_row)
        taken = self._pacing.take(codes, strata, first_row)
        if not self._pacing.done:
            return []
        signals = self._start(self._pacing, first_row + taken - 1)
        return signals + (self._feed(codes[taken:], strata[taken:], first_row + taken) if taken < len(codes) else [])

    def _feed(self, codes: Codes, strata: Strata, first_row: int) -> list[Signal]:
        return [s for detector in self._detectors.values() for s in detector.update(codes, strata, first_row)]

    def _start(self, pacing: Pacing, row: int) -> list[Signal]:
        """The measurement ended with `row`: the detectors with what was measured, fed with the rows held back; each
        column's first signal of each, as of `row`."""
        self._build(pacing.reference())
        found: dict[tuple[str, int], Signal] = {}
        start = 0
        while start < len(pacing.codes):
            first = pacing.first_row + start
            stop = min(start + PANE_ROWS - first % PANE_ROWS, len(pacing.codes))
            for signal in self._feed(pacing.codes[start:stop], pacing.strata[start:stop], first):
                found.setdefault((signal.detector, signal.column), replace(signal, row=row))
            start = stop
        pacing.forget_rows()
        return list(found.values())

    @property
    def times(self) -> npt.NDArray[np.float64] | None:
        """The autocorrelation time of every column, in rows; None while it is being measured."""
        return self._tables.time if self._pacing is None or self._pacing.done else None

    def engage(self, column: int) -> None:
        for detector in self._detectors.values():
            detector.engage(column)

    def release(self, column: int) -> None:
        for detector in self._detectors.values():
            detector.release(column)

    def onset(self, signal: Signal, codes: Codes, strata: Strata) -> tuple[int, int]:
        """The likeliest and the earliest plausible onset of what a signal found, from its column's last rows."""
        return self._evidence.onset(signal, codes, strata)

    def spoken(self, column: int, codes: Codes, strata: Strata) -> tuple[float, dict[str, float]]:
        """What rows of a column say by themselves: see `Evidence.spoken`."""
        return self._evidence.spoken(column, codes, strata)

    def return_rows(self, columns: list[int]) -> npt.NDArray[np.int64]:
        """The row at which a return to the reference was proved, −1 while it is not; shape of `columns`."""
        return self._evidence.return_row[columns]

    def clear(self, column: int) -> bool:
        """Whether an open episode's drift is known to be none of the weakest: see `Evidence.clear`."""
        return self._evidence.clear(column)

    def window(self, column: int) -> npt.NDArray[np.int64] | None:
        """Counts by code of the histogram's window as of the last row fed, None if that detector is disabled."""
        return self._histogram.window(column).counts if self._histogram is not None else None

    def effect(self, column: int, counts: npt.NDArray[np.int64]) -> Distances:
        """How far counts by code are from the reference."""
        p = self._shares(column)
        order = rank_order(self._reference.columns[column])
        rows = float(self._tables.n[:, column].sum())
        return distances(counts, p, order, rows, bool(self._tables.ordered[column]))

    def mean_rank(self, column: int, counts: npt.NDArray[np.int64] | None = None) -> float:
        """The mean rank of counts by code under the reference; of the reference itself without any."""
        shares = self._shares(column)
        u = self._tables.rank[0, column, : len(shares)] * RANK
        if counts is None or not counts.sum():
            return float(shares @ u)
        return float(counts @ u[: len(counts)]) / int(counts.sum())

    def mean_rank_z(self, column: int, counts: npt.NDArray[np.int64]) -> float:
        """Standard errors by which the mean rank (or its spread |2u − 1|) of the counts is off the reference's."""
        n = int(counts.sum())
        if not n:
            return 0.0
        p, z = self._shares(column), 0.0
        rows = n * self._tables.n[:, column].sum() / (n + self._tables.n[:, column].sum())
        for ranks in (self._tables.rank, self._tables.spread):
            u = ranks[0, column, : len(counts)] * RANK
            mean = float(p @ u)
            sd = math.sqrt(max(float(p @ (u - mean) ** 2), 1e-12))
            found = (float(counts @ u) / n - mean) / (sd * math.sqrt(float(self._tables.time[column]) / rows))
            z = found if abs(found) > abs(z) else z
        return z

    def states(self) -> dict[str, tuple[str, State]]:
        """By name: the tag that says what the state is of, and the state."""
        states = {name: (self._tag(name), detector.state()) for name, detector in self._detectors.items()}
        return states if self._pacing is None else states | {"pacing": (_PACING_TAG, self._pacing.state())}

    def restore(self, given: Mapping[str, tuple[str, State]], rows: int | None = None) -> dict[str, str]:
        """Take over states; those that cannot be are left fresh, named with the reason. `rows`: that the stream has
        had, and so its detectors, None if that is not known."""
        if self._pacing is not None:
            tag, state = given.get("pacing", ("nothing", {}))
            try:
                if tag != _PACING_TAG:
                    raise WireError(f"how dependent the events are was saved as {tag}, now {_PACING_TAG}")
                self._pacing.restore(state)
            except WireError as error:
                return dict.fromkeys(self._detectors, f"{error}: it is measured again")
            if not self._pacing.done:
                return {}
            self._build(self._pacing.reference())
        self._part_blocks()
        cold = self._restore(given, rows)
        self._share_blocks()
        return cold

    def _restore(self, given: Mapping[str, tuple[str, State]], rows: int | None) -> dict[str, str]:
        """Each detector from its own state."""
        cold = {}
        for name, detector in self._detectors.items():
            if name not in given:
                cold[name] = "it has no saved state (enabled since?)"
                continue
            tag, state = given[name]
            if tag != self._tag(name):
                cold[name] = f"saved as {tag}, now {self._tag(name)}: its parameters or its library changed"
                continue
            at = state.get("next_row")
            # 0: it was cold at the last restore, and no row has come since.
            if rows is not None and isinstance(at, np.ndarray) and at.tolist() not in ([0], [rows]):
                cold[name] = f"saved at another row than the stream, which is at {rows}"
                continue
            try:
                detector.restore(state)
            except WireError as error:
                cold[name] = str(error)
        return cold

    def cold_windows(self) -> int:
        """Windows of ADWIN that had to start afresh since this was last asked, because native code failed on them."""
        adwin = self._detectors.get("adwin")
        if not isinstance(adwin, Adwin):
            return 0
        count, adwin.cold_starts = adwin.cold_starts, 0
        return count

    def _tag(self, name: str) -> str:
        """Name, schema, library where its bytes are the library's own, and a digest of what it was built with."""
        if name not in self._tags:
            library = f"river-{RIVER}/" if name == "adwin" else ""
            built = f"{self._params[name]!r} {self._budget_rows!r} {SHARES[name]!r}"
            self._tags[name] = f"{name}/{STATE_SCHEMA}/{library}{hashlib.sha256(built.encode()).hexdigest()[:12]}"
        return self._tags[name]

    def _shares(self, column: int) -> npt.NDArray[np.float64]:
        """The reference's probability of every code, over all strata by their rows."""
        tables = self._tables
        rows = tables.n[:, column].astype(np.float64)
        p = tables.p[:, column, : int(tables.widths[column])].astype(np.float64)
        share: npt.NDArray[np.float64] = (rows @ p) / (rows @ p).sum()
        return share
