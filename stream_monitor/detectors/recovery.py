"""Whether a drifted column is back: a decision with its reason, over all columns of a stream at once. Pure.

The proof of a return is `evidence`'s: its filter of the open episode gives the reference the odds asked for. A drift
that goes on is falsely declared over at most once in ten million rows, and the end of one is seen about as fast as its
onset was. Its halves of alternatives hold open what lies between the reference and the weakest alternative. For what
still comes and goes, the proof must stand the longer the more often that happened lately, and the weaker the drift,
measured by the rows that it took to be found: (`hold_rows` + `hold_delays` × delay) after the first reopening, four
times as long with each that follows within `memory_rows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

NEVER: Final = -1


class Reason(IntEnum):
    """Why a column is open or not any more."""

    DRIFTING = 0
    HELD = 1
    RETURNED = 2


REASONS: Final = {
    Reason.DRIFTING: "the rows do not yet speak for a return",
    Reason.HELD: "the rows speak for a return; held, as it came and went before",
    Reason.RETURNED: "the rows are those of the reference again",
}


@dataclass(frozen=True, slots=True)
class Recovery:
    """When an episode ends.

    `least_rows`: shortest episode. `hold_rows`, `hold_delays`: how long a proof of return has to stand once reopened.
    `most_hold_rows`: the longest hold. `memory_rows`: after this long without an episode the past is forgotten.
    """

    least_rows: int = 100
    hold_rows: int = 2_000
    hold_delays: float = 32.0
    most_hold_rows: int = 50_000
    memory_rows: int = 100_000


def decide(
    policy: Recovery, row: int, opened_row: Rows, onset_row: Rows, return_row: Rows, reopenings: Rows
) -> npt.NDArray[np.int8]:
    """The `Reason` for every column, as of the end of `row`.

    `opened_row`, `onset_row`: of the episode. `return_row`: `Evidence.return_row`, −1 while unproved.
    `reopenings`: see `reopened`.
    """
    first = policy.hold_rows + policy.hold_delays * (opened_row - onset_row)
    hold = np.minimum(first * 4.0 ** (np.clip(reopenings, 1, 16) - 1), policy.most_hold_rows)
    hold = np.where(reopenings > 0, hold, 0)
    proved = (return_row >= 0) & (row - opened_row >= policy.least_rows)
    reasons = np.full(len(opened_row), Reason.DRIFTING, dtype=np.int8)
    reasons[proved] = Reason.HELD
    reasons[proved & (row - return_row >= hold)] = Reason.RETURNED
    return reasons


def reopened(policy: Recovery, reopenings: int, resolved_row: int, opened_row: int) -> int:
    """The count of reopenings when an episode opens; `resolved_row` is the end of the one before, −1 if none."""
    if resolved_row < 0 or opened_row - resolved_row > policy.memory_rows:
        return 0
    return reopenings + 1
