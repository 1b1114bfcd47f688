"""How long a worker takes from its command to its first round of work: compiled kernels cached, and not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Final

from benchmarks.throughput.results import Figure

PROGRAM: Final = """
import time
from benchmarks.throughput.flat import World, events
from benchmarks.throughput.workload import reference
world = World([reference(rows_used=2_000)])
world.second(events(["throughput"], [f"feature_{j:02d}" for j in range(20)], 200, 1))
"""
"""What `run` imports, a worker over the in-memory broker, and a first batch through the main job's kernels."""


def measure(runs: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        cold = _seconds(directory)
        warm = median(_seconds(directory) for _ in range(runs))
    return [
        Figure("start", "kernels cached", "from the command to the first batch watched", warm, "s", 3, least=False),
        Figure("start", "nothing cached (first start after installation)", "the same", cold, "s"),
    ]


def _seconds(cache: str) -> float:
    env = {**os.environ, "NUMBA_CACHE_DIR": cache}
    began_s = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=env,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - began_s
