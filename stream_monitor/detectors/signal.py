"""A detector's finding, and what every detector of a stream can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]
"""Codes of shape `[rows, columns]`, C order."""
Strata = npt.NDArray[np.uint8]
"""The stratum of every row, shape `[rows]`; all zero without a season."""
State = dict[str, npt.NDArray[np.generic] | list[bytes]]
"""A detector's whole state: arrays by name (dtype and shape fixed by the reference), or opaque bytes a column."""


@dataclass(frozen=True, slots=True)
class Signal:
    """This column, this detector, at this row, onset about there, this strong.

    `row`, `onset_row`, `earliest_row`: the stream's own row numbers, from 0. `alternative` names what kind of change
    the statistic speaks for (as `location+0.5` or `missing`).
    """

    row: int
    column: int
    detector: str
    statistic: str
    value: float
    threshold: float
    direction: str
    onset_row: int
    earliest_row: int
    alternative: str = ""


class Detector(Protocol):
    """One detector over all columns of one stream; the same rows give the same signals however they are cut."""

    def update(self, codes: Codes, strata: Strata, first_row: int) -> list[Signal]:
        """Feed rows `first_row …`; the signals found in them, ordered by row, then column."""

    def engage(self, column: int) -> None:
        """An episode of the column has opened (by whichever detector)."""

    def release(self, column: int) -> None:
        """The column's episode was resolved: start afresh for it."""

    def state(self) -> State:
        """Copies of everything that `restore` needs to go on bit for bit."""

    def restore(self, state: State) -> None:
        """Take over a state; raises WireError, and changes nothing, where names, dtypes, shapes or values cannot be."""
