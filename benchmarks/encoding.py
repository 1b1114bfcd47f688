"""CPU time an event of merging and encoding, in process: read by layout or decoded, and under settings of the cycle
collector.

    python -m benchmarks.encoding [--events N] [--runs N]

Records as a poll gives them, six partitions in turn, a transaction every 30,000 events. The ways and settings take
turns, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import orjson

from benchmarks.throughput.workload import START_MS, event, reference, rows
from stream_monitor import collector
from stream_monitor.book import FIRST_EPOCH, ReferenceBook, key_of
from stream_monitor.broker.protocol import Record, TopicPartition
from stream_monitor.config import Settings
from stream_monitor.encoder import EncodeCounts, Encoder
from stream_monitor.merge import Merged, Merger

PARTITIONS: Final = 6
POLLED: Final = 10_000
COMMITTED: Final = 30_000
PYTHONS: Final = gc.get_threshold()


def by_default() -> None:
    gc.unfreeze()
    gc.collect()
    gc.set_threshold(*PYTHONS)


def switched_off() -> None:
    by_default()
    gc.set_threshold(0)


def frozen() -> None:
    by_default()
    gc.freeze()


SETTINGS: Final[dict[str, Callable[[], None]]] = {
    "Python's": by_default, "frozen": frozen, "settled (ours)": collector.settle, "switched off": switched_off,
}  # fmt: skip


def values_of(count: int, per_record: int) -> list[bytes]:
    found = [event(row) for row in rows(count, seed=2)]
    if per_record == 1:
        return list(map(orjson.dumps, found))
    return [orjson.dumps(found[start : start + per_record]) for start in range(0, count, per_record)]


def us_an_event(encoder: Encoder, values: Sequence[bytes], count: int) -> float:
    """The values are copied, as a client would: the records go when they are encoded."""
    partitions = [TopicPartition("predictions", number) for number in range(PARTITIONS)]
    merger, counts, pending, spent_s = Merger(0.5), EncodeCounts(), list[Merged](), 0.0
    merger.assign(partitions)
    step = POLLED * len(values) // count
    for start in range(0, len(values), step):
        polled: dict[TopicPartition, list[Record]] = {partition: [] for partition in partitions}
        for number in range(start, min(start + step, len(values))):
            partition = partitions[number % PARTITIONS]
            stamp_ms = START_MS + number * count // len(values) // 10
            value = bytes(bytearray(values[number]))
            polled[partition].append(Record(*partition, number // PARTITIONS, stamp_ms, b"key", value))
        began_s = time.process_time()
        for partition, records in polled.items():
            merger.add(partition, records, START_MS)
        polled.clear()
        last = start + step >= len(values)
        pending += merger.take([] if last else partitions, len(values), 0.0)
        if last or len(pending) * count >= COMMITTED * len(values):
            encoder.encode(pending, counts, stamp_ms)
            pending = []
        spent_s += time.process_time() - began_s
    if counts.rows != count:
        raise RuntimeError(f"{counts.rows} of {count} events were encoded")
    return 1e6 * spent_s / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    book, watched = ReferenceBook(), reference()
    book.apply(key_of(watched.stream, FIRST_EPOCH), watched.to_json())
    encoders = {"by layout": Encoder(Settings(), book), "decoded": Encoder(Settings(), book)}
    encoders["decoded"]._scanner = None
    print("| records | read | " + " | ".join(SETTINGS) + " |\n| --- | --- |" + " ---: |" * len(SETTINGS))
    for shape, per_record in (("one event", 1), ("100 events", 100)):
        values = values_of(asked.events, per_record)
        spent: dict[tuple[str, str], list[float]] = {(way, name): [] for way in encoders for name in SETTINGS}
        for run in range(asked.runs + 1):
            for (way, name), found in spent.items():
                SETTINGS[name]()
                us = us_an_event(encoders[way], values, asked.events)
                if run:  # the first compiles
                    found.append(us)
        by_default()
        for way in encoders:
            told = [f"{median(spent[way, name]):.2f} µs" for name in SETTINGS]
            print(f"| {shape} | {way} | " + " | ".join(told) + " |", flush=True)


if __name__ == "__main__":
    main()
