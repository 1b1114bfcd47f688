"""Python's cycle collector, set for a process that makes and drops hundreds of thousands of small containers a second.

An event is four containers (two dicts, the record, the record with its time), and none of them is in a cycle: they go
when nothing refers to them. But every 700 more of them make the collector look, and those that wait for a commit make
it look again and again at everything that start-up has made. `python -m benchmarks.encoding` measures what that costs;
its figures are in ADR 8.
"""

from __future__ import annotations

import gc
from typing import Final

_THRESHOLDS: Final = gc.get_threshold()
NEW_CONTAINERS: Final = 250_000
"""More containers than this since the last look, net of those that went, and the collector looks at the young ones.
It is more than a transaction has at once: else most of those that it looks at are records on their way."""


def settle() -> None:
    """What exists now stays: leave it out of every later collection, and look for cycles more rarely.

    What is frozen is still freed when nothing refers to it; only its cycles are not found any more. So rubbish is
    collected first.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_CONTAINERS, *gc.get_threshold()[1:])


def release() -> None:
    """A connection has ended: what `settle` left out is looked at again, and what the connection left behind goes.

    Its clients are cycles, and so is whatever they refer to.
    """
    gc.unfreeze()
    gc.collect()
    gc.set_threshold(*_THRESHOLDS)
