"""The most frequent names of a stream in little memory: what a flood of categories never seen consists of. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

MOST_NAMES: Final = 32
FADES_AT: Final = 4_096
"""Names counted after which all counts are halved, so that what comes now outweighs what was long ago."""


class HeavyNames(msgspec.Struct):
    """Misra and Gries' summary: at most 32 counters, whatever comes.

    Until the first halving (every 4,096 names), a name that came f times in n has a count of f − n/33 … f: a name with
    more than a 33rd of all is certainly here, and no count is too high. (J. Misra and D. Gries, Finding repeated
    elements, Science of Computer Programming 2, 1982; the bound is reached: P. K. Agarwal et al., Mergeable summaries,
    PODS 2012.) Each halving halves f, n and the counts alike and rounds counts down, which takes less than 1 in all.

    Not river's `HeavyHitters`: it can be saved by pickle alone, and its lossy counting bounds no number of entries.
    Nor DataSketches' `frequent_strings_sketch`: its state is opaque bytes, and other bytes once read back and written
    again, so that a restart would not be bit for bit. Both were tried.

    >>> heavy = HeavyNames()
    >>> for number in range(1000):
    ...     heavy.add("Oslo" if number % 10 == 0 else f"typo {number}")
    >>> heavy.top(1)
    [('Oslo', 0.085)]
    """

    counts: dict[str, int] = {}
    total: int = 0

    def add(self, name: str) -> None:
        self.total += 1
        if name in self.counts:
            self.counts[name] += 1
        elif len(self.counts) < MOST_NAMES:
            self.counts[name] = 1
        else:
            self.counts = {known: count - 1 for known, count in self.counts.items() if count > 1}
        if self.total >= FADES_AT:
            self.total -= self.total // 2
            self.counts = {known: count // 2 for known, count in self.counts.items() if count > 1}

    def top(self, most: int) -> list[tuple[str, float]]:
        """The most frequent names with their share of all, at least; ties by name."""
        ranked = sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0]))
        return [(name, count / self.total) for name, count in ranked[:most]]

    @property
    def sound(self) -> bool:
        """Whether adding can have led here."""
        return (
            len(self.counts) <= MOST_NAMES
            and 0 <= self.total < FADES_AT
            and all(count > 0 for count in self.counts.values())
            and sum(self.counts.values()) <= self.total
        )
