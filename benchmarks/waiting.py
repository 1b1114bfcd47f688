"""What predictions that wait for labels cost: memory, state, and time, by how many there are.

python -m benchmarks.waiting [ROWS …]        (default 100,000 and 1,000,000)
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from stream_monitor.model import Model
from stream_monitor.model_state import Saved, restore, save
from stream_monitor.waiting import EARLY, ENTRY, LABEL, Waiting

BATCH = 1_000
HORIZON_MS = 10**12


def entries(first: int, count: int, ids: Any, *, labels: bool) -> Any:
    found = np.zeros(count, dtype=ENTRY)
    found["id_a"], found["id_b"] = ids[first : first + count, 0], ids[first : first + count, 1]
    found["number"], found["name"], found["stream"] = 0.5, -1, EARLY if labels else 0
    found["record_ms"] = found["time_ms"] = found["offset"] = np.arange(first, first + count)
    return found


def measure(rows: int) -> str:
    ids = np.random.default_rng(1).integers(1, 2**63, (rows, 2), dtype=np.uint64)
    model = Model("m", Waiting(HORIZON_MS, rows))
    nothing = np.zeros(BATCH, dtype=LABEL)
    started_s = time.perf_counter()
    for first in range(0, rows, BATCH):
        model.waiting.predict(entries(first, BATCH, ids, labels=False), nothing, model.counts)
    waiting_s = time.perf_counter() - started_s
    memory = model.waiting.nbytes / rows
    records, saved = save(model, 1, 0, Saved())
    state = sum(len(value or b"") for _, value in records) / rows
    model.waiting.forget_fresh()
    order = np.random.default_rng(2).permutation(rows)
    started_s = time.perf_counter()
    for first in range(0, rows, BATCH):
        model.waiting.label(entries(0, BATCH, ids[order[first : first + BATCH]], labels=True), model.counts)
    joining_s = time.perf_counter() - started_s
    assert model.counts.joined == rows
    more, _ = save(model, 2, 0, saved)
    joined = sum(len(value or b"") for _, value in more) / rows
    parts: dict[str, dict[int, bytes]] = {}
    for key, value in [*records, *more]:
        letter, number = key.decode()[2], int(key.decode().rsplit(",", 1)[1][:-1])
        parts.setdefault(letter, {})[number] = value or b""
    started_s = time.perf_counter()
    restored = restore(Model("m", Waiting(HORIZON_MS, rows)), Model("m", Waiting(HORIZON_MS, rows)), parts)
    restoring_s = time.perf_counter() - started_s
    assert not restored.lost
    return (
        f"{rows:,} waiting: {memory:.0f} bytes of memory and {state:.0f} of state each, "
        f"{joined:.0f} more once joined; "
        f"{1e6 * waiting_s / rows:.2f} µs to wait, {1e6 * joining_s / rows:.2f} µs to join, "
        f"{restoring_s:.1f} s to restore"
    )


if __name__ == "__main__":
    measure(BATCH)  # compiles
    for count in [int(argument) for argument in sys.argv[1:]] or [100_000, 1_000_000]:
        print(measure(count))
