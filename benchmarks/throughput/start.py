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
import stream_monitor.cli, stream_monitor.broker.kafka
from benchmarks.throughput.flat import World, events
from benchmarks.throughput.workload import reference
world = World([reference(rows_used=2_000)])
world.second(events(["throughput"], [f"feature_{j:02d}" for j in range(20)], 200, 1))
"""
"""What `run` imports, a worker over the in-memory broker, and a first batch through the main job's kernels."""


def measure(runs: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        cold_s, _ = _seconds(directory)
        warm = [_seconds(directory) for _ in range(runs)]
    warm_s, warm_cpu_s = (median(each) for each in zip(*warm, strict=True))
    return [
        Figure("start", "kernels cached", "from the command to the first batch watched", warm_s, "s", 3, least=False),
        Figure("start", "kernels cached", "CPU of it", warm_cpu_s, "s"),
        Figure("start", "nothing cached (first start after installation)", "by the clock", cold_s, "s"),
    ]


def _seconds(cache: str) -> tuple[float, float]:
    """By the clock, and CPU time."""
    env = {**os.environ, "NUMBA_CACHE_DIR": cache}
    began_s, before = time.monotonic(), os.times()
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=env,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = os.times()
    used_s = after.children_user - before.children_user + after.children_system - before.children_system
    return time.monotonic() - began_s, used_s
