"""What a column costs: bytes of state on the topic, bytes of memory; and 100,000 columns in one process.

Run as a program it holds 100,000 columns and prints what that took: a process of its own, as memory is. Every stream
has a reference of its own, read from its document as a worker reads it: its own number of rows, edges, counts by bin,
tables of pairs. So nothing is shared between streams that would not be between those of a real deployment (where
columns of equal counts, as of values without ties, share their ratios; here no two do). It is fed until every window is
full.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Final

import msgspec
import numpy as np

from benchmarks.memory import peak_rss_bytes
from benchmarks.throughput.detection import monitor_of, ns_a_value, origins, sample
from benchmarks.throughput.results import Figure
from benchmarks.throughput.workload import NUMERIC, model
from stream_monitor import allocator
from stream_monitor import state as states
from stream_monitor.association import counts_of, relations_of
from stream_monitor.codes import FIRST_BIN
from stream_monitor.config import Settings
from stream_monitor.reference import Bins, Reference
from stream_monitor.reference_checks import load
from stream_monitor.streams import StreamFactory

COLUMNS: Final = 100_000
BATCH: Final = 100


def measure(scale: float = 1.0) -> list[Figure]:
    young, full = _state_bytes(int(150_000 * scale))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.throughput.size", str(int(COLUMNS * scale))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    many = json.loads(done.stdout.splitlines()[-1])
    case = f"{many['columns']:,} columns in {many['streams']:,} streams, a reference each"
    return [
        Figure("size", "a stream of 20 columns after 10,000 rows", "state on the topic", young, "bytes/column"),
        Figure("size", "the same, at its largest", "state on the topic", full, "bytes/column", 6_144, least=False),
        Figure("size", case, "memory", many["rss_bytes"] / many["columns"], "bytes/column", 15_360, least=False),
        Figure("size", case, "memory", many["total_bytes"] / 2**30, "GiB in all", 3, least=False),
        Figure("size", case, "speed ÷ that of one stream", many["one_ns"] / many["many_ns"], "×", 0.5),
        Figure("size", case, "building them", many["build_s"], "s"),
    ]


def _state_bytes(rows: int) -> tuple[float, float]:
    """By column: after 10,000 rows, and the most it comes to."""
    reference, _, codes = sample(NUMERIC, max(rows, 20_000))
    stream = StreamFactory(Settings()).stream(reference.stream)
    stream.monitor = monitor_of(reference)
    sizes = []
    for start in range(0, len(codes), 10_000):
        part = codes[start : start + 10_000]
        stream.monitor.feed(part, origins(start, len(part)))
        records, _ = states.save(stream, 0, 0, states.Saved())
        sizes.append(sum(len(value or b"") for _, value in records) / NUMERIC)
    return sizes[0], max(sizes)


def hold(columns: int) -> dict[str, float]:
    """Streams of 20 columns, all of them different in all that a reference says."""
    allocator.settle()  # as `worker.run` does
    reference, _, codes = sample(NUMERIC, 20_000)
    one_ns = ns_a_value(reference, codes, BATCH)
    before, began = peak_rss_bytes(), time.monotonic()
    rng = np.random.default_rng(5)
    monitors = []
    for number in range(columns // NUMERIC):
        monitors.append(monitor_of(load(another(reference, model(number), rng))))
    build_s = time.monotonic() - began
    spent, rounds = 0.0, 21  # the longest window has 2,000 rows
    for start in range(0, rounds * BATCH, BATCH):
        part, whence = codes[start : start + BATCH], origins(start, BATCH)
        at = time.process_time()
        for monitor in monitors:
            monitor.feed(part, whence)
        if start >= 2 * BATCH:
            spent += time.process_time() - at
    many_ns = 1e9 * spent / ((rounds - 2) * BATCH * NUMERIC * len(monitors))
    rss = peak_rss_bytes()
    return {
        "columns": NUMERIC * len(monitors), "streams": len(monitors), "rss_bytes": rss - before, "total_bytes": rss,
        "build_s": build_s, "one_ns": one_ns, "many_ns": many_ns,
    }  # fmt: skip


def another(reference: Reference, of: str, rng: np.random.Generator) -> bytes:
    """The document of a reference like this one, of another number of rows, in other units, by chance a bit different
    in every count."""
    share = float(rng.uniform(1.0, 4.0))
    columns = []
    for column in reference.columns:
        bins, unit = column.strata[0], float(rng.uniform(0.5, 2.0))
        counts = np.round(np.array(bins.counts) * share).astype(np.int64)
        counts[FIRST_BIN:] += rng.integers(-2, 3, size=len(counts) - FIRST_BIN)
        own = Bins(np.maximum(counts, 1).tolist(), [edge * unit for edge in bins.edges], bins.low * unit)
        own.counts[:FIRST_BIN] = bins.counts[:FIRST_BIN]
        quantiles = {level: value * unit for level, value in column.quantiles.items()}
        columns.append(msgspec.structs.replace(column, strata=[own], quantiles=quantiles))
    relations = relations_of(reference)
    assert relations is not None
    tables = np.round(counts_of(relations) * share).astype(np.int64)
    tables += rng.integers(0, 3, size=tables.shape)
    related = msgspec.structs.replace(relations, tables=tables.astype("<u2").tobytes())
    return msgspec.structs.replace(reference, model=of, columns=columns, relations=related).to_json()


if __name__ == "__main__":
    print(json.dumps(hold(int(sys.argv[1]))))
