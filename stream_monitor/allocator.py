"""The C library's allocator, set for a process that makes and drops arrays of some hundred kilobytes all day.

Such arrays are mapped anew each time, or given back to the system from the top of the heap, and every page of them is
faulted in again: a quarter of the CPU time of a restore (`python -m benchmarks.restore --only 1`, with its call of
`settle` and without).

And each thread gets a heap of its own, which keeps what is free in it as well: a worker's memory then grows to the sum
of what each of its threads once had at most (by 43 MiB in a soak of half an hour; `docs/guarantees.md`, "Measured").
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
"""Numbers of `mallopt(3)`."""
KEPT_BYTES: Final = 16 * 1024 * 1024
"""Free memory at the top of the heap that is kept, at most."""
MAPPED_BYTES: Final = 2 * 1024 * 1024
"""What is larger than this is mapped by itself and given back when it goes: what is fetched of a backlog, above all."""
HEAPS: Final = 1
"""For all threads, which hold the interpreter's lock where they allocate much."""
_SET_BY_OTHERS: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX")


def settle() -> bool:
    """Keep what is free for the next array, of all threads in one place; whether the C library can be told (glibc),
    and nobody else has.

    Whoever sets `MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_` or `MALLOC_ARENA_MAX` in the environment is left
    alone.
    """
    if any(name in os.environ for name in _SET_BY_OTHERS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    wanted = ((_MMAP_THRESHOLD, MAPPED_BYTES), (_TRIM_THRESHOLD, KEPT_BYTES), (_ARENA_MAX, HEAPS))
    return all(mallopt(option, value) for option, value in wanted)
