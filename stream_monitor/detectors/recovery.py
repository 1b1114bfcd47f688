"""Whether a drifted column is back: a decision with its reason, over all columns of a stream at once. Pure.

The proof of a return is `evidence`'s: its filter of the open episode gives the reference the odds asked for. A drift
that goes on is falsely declared over at most once in ten million rows, and the end of one is seen about as fast as its
onset was. Its halves of alternatives hold open what lies between the reference and the weakest alternative.

A drift that no alternative fits breaks that bound, and what breaks it shows: the column opens again soon. From then on
an episode is *clear* or *weak*. It is clear if, before any proof of a return, the rows ruled out the weakest drifts
that the reference supports: a return of it cannot be taken for chance, and its proof has to stand for `hold_rows` and
`hold_delays` of its delay. All others are weak: they stay open for `memory_rows`. So a weak drift reopens at most once
in any `memory_rows`, whatever it is, and a clear one closes as fast the tenth time as the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

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


class Strength(IntEnum):
    """What an episode that was reopened had shown before a return was first proved."""

    UNKNOWN = 0
    CLEAR = 1
    WEAK = 2


@dataclass(frozen=True, slots=True)
class Recovery:
    """When an episode ends.

    `least_rows`: shortest episode. `hold_rows`, `hold_delays`: how long a proof of return has to stand once reopened.
    `memory_rows`: after this long without an episode the past is forgotten; the shortest weak episode once reopened.
    """

    least_rows: int = 100
    hold_rows: int = 1_000
    hold_delays: float = 8.0
    memory_rows: int = 100_000


def decide(
    policy: Recovery, row: int, opened_row: Rows, onset_row: Rows, return_row: Rows, reopenings: Rows, clear: Flags
) -> npt.NDArray[np.int8]:
    """The `Reason` for every column, as of the end of `row`.

    `opened_row`, `onset_row`: of the episode. `return_row`: `Evidence.return_row`, −1 while unproved.
    `reopenings`: see `reopened`. `clear`: whether its `Strength` is that; asked of reopened ones only.
    """
    again = reopenings > 0
    hold = np.where(again, policy.hold_rows + policy.hold_delays * (opened_row - onset_row), 0)
    least = np.where(again & ~clear, policy.memory_rows, policy.least_rows)
    proved = (return_row >= 0) & (row - opened_row >= policy.least_rows)
    reasons = np.full(len(opened_row), Reason.DRIFTING, dtype=np.int8)
    reasons[proved] = Reason.HELD
    reasons[proved & (row - return_row >= hold) & (row - opened_row >= least)] = Reason.RETURNED
    return reasons


def strength(return_row: int, clear: bool) -> Strength:
    """What an episode of unknown strength has shown by now; a clear drift or a proof of return settles it.

    Under the reference the weakest drifts fade from the filter, too: after a proof it cannot tell any more.
    """
    if return_row >= 0:
        return Strength.WEAK
    return Strength.CLEAR if clear else Strength.UNKNOWN


def reopened(policy: Recovery, reopenings: int, resolved_row: int, opened_row: int) -> int:
    """The count of reopenings when an episode opens; `resolved_row` is the end of the one before, −1 if none."""
    if resolved_row < 0 or opened_row - resolved_row > policy.memory_rows:
        return 0
    return reopenings + 1
