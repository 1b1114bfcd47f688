"""How much one event depends on the last, where the reference cannot tell: measured on the stream's own first rows.

A reference of shuffled rows has lost its order. To take its events for independent would be to hope (see
`dependence.py` for what that costs). So the stream's first rows are held back, the autocorrelation times and the
share of repeats are measured on their codes as they are on an ordered reference, and only then do the detectors see
them; what they find is told at the row that ended the measurement. A drift that begins within these rows looks like
dependence: the column is then watched more slowly than it could be, never more hastily than it should.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.codes import FIRST_BIN, INVALID
from stream_monitor.dependence import column_time
from stream_monitor.detectors.signal import Codes, State, Strata
from stream_monitor.detectors.states import within
from stream_monitor.errors import WireError
from stream_monitor.reference import Reference

ROWS: Final = 5_000
"""Rows that are held back; the relative error of a time τ is then about √(4τ / 5,000)."""
_LONGEST: Final = 1e5
_NAMES: Final = ("codes", "strata", "first_row", "times", "repeats")


class Pacing:
    """The rows held back of one stream, or what was measured on them."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        columns = len(reference.columns)
        self.codes: Codes = np.zeros((0, columns), dtype=np.uint8)
        self.strata: Strata = np.zeros(0, dtype=np.uint8)
        self.first_row = 0
        self._times = np.zeros(0)
        self._repeats = np.zeros(0)

    @property
    def done(self) -> bool:
        """Whether the measurement is over."""
        return len(self._times) > 0

    def take(self, codes: Codes, strata: Strata, first_row: int) -> int:
        """Hold rows back; how many of them were taken. Measures when there are enough."""
        if not len(self.codes):
            self.first_row = first_row
        taken = min(ROWS - len(self.codes), len(codes))
        self.codes = np.concatenate([self.codes, codes[:taken]])
        self.strata = np.concatenate([self.strata, strata[:taken]])
        if len(self.codes) == ROWS:
            self._measure()
        return taken

    def _measure(self) -> None:
        times = []
        for index, column in enumerate(self._reference.columns):
            counts = np.array([bins.counts for bins in column.strata], dtype=np.int64)
            own = np.where(self.codes[:, index] < FIRST_BIN + column.bins, self.codes[:, index], INVALID)
            times.append(column_time(own.astype(np.uint8), self.strata, counts, column.kind))
        self._times = np.array(times)
        self._repeats = (self.codes[1:] == self.codes[:-1]).mean(axis=0)

    def forget_rows(self) -> None:
        """The detectors have seen them."""
        self.codes, self.strata = self.codes[:0], self.strata[:0]

    def reference(self) -> Reference:
        """The stream's reference with what was measured."""
        columns = [
            msgspec.structs.replace(column, autocorrelation_time=time, repeat=repeat)
            for column, time, repeat in zip(
                self._reference.columns, self._times.tolist(), self._repeats.tolist(), strict=True
            )
        ]
        return msgspec.structs.replace(self._reference, columns=columns)

    def state(self) -> State:
        """Copies of everything that `restore` needs."""
        first_row = np.array([self.first_row], dtype=np.int64)
        parts: list[npt.NDArray[np.generic]] = [self.codes, self.strata, first_row, self._times, self._repeats]
        return {name: part.copy() for name, part in zip(_NAMES, parts, strict=True)}

    def restore(self, state: State) -> None:
        """Take over a state; raises WireError where it cannot be one of this reference, and changes nothing then."""
        if set(state) != set(_NAMES) or not all(isinstance(part, np.ndarray) for part in state.values()):
            raise WireError(f"pacing state: has {sorted(state)}, expected {sorted(_NAMES)}")
        codes, strata, first_row, times, repeats = (np.asarray(state[name]) for name in _NAMES)
        columns = len(self._reference.columns)
        dtypes = [part.dtype.str for part in (codes, strata, first_row, times, repeats)]
        if dtypes != ["|u1", "|u1", "<i8", "<f8", "<f8"]:
            raise WireError(f"pacing state: dtypes {dtypes}")
        fits = codes.ndim == 2 and codes.shape[1] == columns and len(codes) < ROWS and strata.shape == (len(codes),)
        measured = times.shape in ((0,), (columns,)) and repeats.shape == times.shape
        if not (fits and measured and first_row.shape == (1,) and not (len(times) and len(codes))):
            shapes = [part.shape for part in (codes, strata, first_row, times, repeats)]
            raise WireError(f"pacing state: shapes {shapes} are none of {columns} columns")
        within("pacing", "strata", strata, 0, self._reference.strata - 1)
        within("pacing", "first_row", first_row, 0, 2**62)
        within("pacing", "times", times, 1.0, _LONGEST)
        within("pacing", "repeats", repeats, 0.0, 1.0)
        self.codes, self.strata, self.first_row = codes.copy(), strata.copy(), int(first_row[0])
        self._times, self._repeats = times.copy(), repeats.copy()
