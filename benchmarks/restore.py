"""How long a worker takes to read its state back, what a column takes on the topic and in memory, and the save budget.

    python -m benchmarks.restore            writes benchmarks/restore.md and .json; some ten minutes, 4 GB
    python -m benchmarks.restore --scale 0.05

For each shape a process makes streams that have seen 2,100 rows (windows, rings and trails are full), and writes the
state and references topics into a file. A second one puts them on the broker in memory and starts a detect stage:

- restore: from the start of the worker, its references read, until every partition is held; the longest single step is
  the longest that polls, heartbeats and the other partitions have to wait;
- memory: what the process has grown by since before the worker was made, compiled code already loaded, after the
  restore and after every stream has been fed another 200 rows, which touches all of it;
- saving: with all streams unsaved, the bytes of state committed in each second of the worker's clock.

`own` references differ in every stream, so that no table is shared; `shared` ones are one for all.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import structlog

from benchmarks.memory import rss_bytes
from stream_monitor import allocator, collector
from stream_monitor import state as states
from stream_monitor.association import counts_of, relations_of
from stream_monitor.batch import CodedBatch, Origins, encode_coded
from stream_monitor.book import FIRST_EPOCH, ReferenceBook, key_of
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.outgoing import partition_of
from stream_monitor.broker.protocol import Message
from stream_monitor.config import Settings
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.ordering import Tick, encode_tick
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.reference_checks import load
from stream_monitor.streams import StreamFactory
from stream_monitor.topics import specs
from stream_monitor.worker import Worker

HOME: Final = Path(__file__).parent
START_MS: Final = 1_700_000_000_000
ROWS: Final = 2_100
BATCH: Final = 100
STEP_S: Final = 0.1
SAVED_S: Final = 20


class Shape(NamedTuple):
    streams: int
    columns: int
    references: str


SHAPES: Final = (Shape(5_000, 20, "shared"), Shape(5_000, 20, "own"), Shape(50, 2_000, "own"))
GATES: Final = {"restore_s": 30.0, "state_bytes_a_column": 6_000.0, "rss_bytes_a_column": 15_000.0}


def settings() -> Settings:
    return Settings.model_validate({"kafka": {"bootstrap_servers": ["127.0.0.1:1"]}, "instance": "a"})


# ---- making the state ----


def references(shape: Shape) -> Iterator[Reference]:
    """Numeric columns fitted to 20,000 rows, the first twenty looked at by pairs; `own`: counts drawn anew for every
    stream."""
    rng = np.random.default_rng(1)
    distinct = min(shape.columns, 20)
    values = rng.normal(size=(20_000, distinct))
    rows = [
        Row("m", "", "", START_MS + i, {f"f{c}": x for c, x in enumerate(row)}, None, None, None, 0, i, 0)
        for i, row in enumerate(values.tolist())
    ]
    base = fit(rows, StreamKey("m0"), FitOptions(season=Season.NONE, ordered=True))
    columns = [msgspec.structs.replace(base.columns[c % distinct], name=f"f{c}") for c in range(shape.columns)]
    relations = relations_of(base)
    assert relations is not None
    tables = counts_of(relations)
    for stream in range(shape.streams):
        if shape.references == "own":
            columns = [redrawn(rng, column) for column in columns]
            own = (tables + rng.integers(0, 9, size=tables.shape)).astype("<u2").tobytes()
            relations = msgspec.structs.replace(relations, tables=own)
        yield msgspec.structs.replace(base, model=f"m{stream}", columns=columns, relations=relations)


def redrawn(rng: np.random.Generator, column: Any) -> Any:
    (bins,) = column.strata
    counts = np.array(bins.counts, dtype=np.float64)
    drawn = rng.multinomial(int(counts.sum()), (counts + 1) / (counts + 1).sum()).tolist()
    return msgspec.structs.replace(column, strata=[msgspec.structs.replace(bins, counts=drawn)])


def batch(rng: np.random.Generator, reference: Reference, first: int, rows: int) -> CodedBatch:
    """Rows that follow the reference."""
    codes = np.empty((rows, len(reference.columns)), dtype=np.uint8)
    for c, column in enumerate(reference.columns):
        counts = np.array(column.strata[0].counts, dtype=np.float64)
        codes[:, c] = np.searchsorted(np.cumsum(counts / counts.sum())[:-1], rng.random(rows), side="right")
    numbers = first + np.arange(rows, dtype=np.int64)
    times = START_MS + numbers * 10 + rng.integers(0, 8, rows)
    partitions = rng.integers(0, 6, rows).astype(np.int32)
    origins = Origins(partitions, numbers * 7 + rng.integers(0, 7, rows), np.zeros(rows, np.int32), times, times)
    entry = ReferenceBook.entry(reference, FIRST_EPOCH)
    return CodedBatch(reference.stream, entry.digest, entry.generation, codes, origins)


def fill(shape: Shape, path: Path) -> None:
    """Write `[references, states, batches]`, lists of (partition, key, value)."""
    given, rng = settings(), np.random.default_rng(2)
    factory, packer = StreamFactory(given), msgspec.msgpack.Encoder()
    topics = given.topics
    with path.open("wb") as file:
        for reference in references(shape):
            book = ReferenceBook()
            book.apply(key_of(reference.stream, FIRST_EPOCH), reference.to_json())
            stream = factory.stream(reference.stream)
            stream.feed(batch(rng, reference, 0, ROWS), book)
            partition = partition_of(reference.model.encode(), topics.partitions)
            saved = states.save(stream, 0, 0, states.Saved())[0]
            codes = list(encode_coded(batch(rng, reference, ROWS, BATCH)))
            record = (
                partition,
                key_of(reference.stream, FIRST_EPOCH),
                reference.to_json(),
                [(key, value) for key, value in saved if value is not None],
                codes,
            )
            data = packer.encode(record)
            file.write(len(data).to_bytes(8, "big") + data)


# ---- restoring it ----


def records(path: Path) -> Iterator[tuple[int, bytes, bytes, list[tuple[bytes, bytes]], list[bytes]]]:
    kind = tuple[int, bytes, bytes, list[tuple[bytes, bytes]], list[bytes]]
    decoder = msgspec.msgpack.Decoder(kind)
    with path.open("rb") as file:
        while size := file.read(8):
            yield decoder.decode(file.read(int.from_bytes(size, "big")))


def restore(shape: Shape, path: Path) -> dict[str, float]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    allocator.settle()  # as `worker.run` does
    given, now_s = settings(), [1_000.0]
    topics = given.topics
    broker = MemoryBroker(clock_ms=lambda: START_MS)
    broker.create_topics(specs(given, predictions=1))
    batches: list[Message] = []
    for partition, key, reference, saved, codes in records(path):
        broker.append([Message(topics.references, key, reference)])
        broker.append([Message(topics.state, name, value, partition) for name, value in saved])
        batches += [Message(topics.codes, b"m", data, partition) for data in codes]
    _load_kernels(given, reference)
    state_bytes = sum(len(record.value or b"") for record in broker.records(topics.state))
    gc.collect()
    before = rss_bytes()

    started_s, cpu_s = time.perf_counter(), time.process_time()
    worker = Worker(given, broker, frozenset({"detect"}), clock_s=lambda: now_s[0], clock_ms=lambda: START_MS)
    collector.settle()  # as `worker.run` does
    detect = worker.detect
    assert detect is not None
    read_s, longest_s, longest_cpu_s = time.perf_counter() - started_s, 0.0, 0.0
    while detect.counts.restored_streams < shape.streams or detect.restoring().partitions:
        step_s, step_cpu_s = time.perf_counter(), time.process_time()
        worker.step(0.0)
        longest_s = max(longest_s, time.perf_counter() - step_s)
        longest_cpu_s = max(longest_cpu_s, time.process_time() - step_cpu_s)
    restore_s, restore_cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    assert (detect.counts.lost_states, detect.counts.cold_detectors) == (0, 0)
    restored_rss = rss_bytes() - before

    feed_cpu_s = time.process_time()
    for turn in range(2):
        broker.append(batches)
        promise = START_MS + (turn + 1) * 10**9
        tick = encode_tick(Tick(promise, 1, {0: promise}))
        broker.append([Message(topics.codes, b"tick", tick, number) for number in range(topics.partitions)])
        while not all(detect._consumer.position(p) == broker.log(p).end_offset for p in detect._held):
            worker.step(0.0)
    feed_cpu_s = time.process_time() - feed_cpu_s
    rows = detect.counts.rows
    running_rss = rss_bytes() - before

    seconds = []
    for _ in range(SAVED_S):
        before_bytes = detect.counts.state_bytes
        for _ in range(round(1 / STEP_S)):
            now_s[0] += STEP_S
            worker.step(0.0)
        seconds.append(detect.counts.state_bytes - before_bytes)
    unsaved = sum(len(held.due) for held in detect._held.values())
    columns = shape.streams * shape.columns
    return {
        "columns": columns, "state_bytes_a_column": state_bytes / columns,
        "references_s": read_s, "restore_s": restore_s, "restore_cpu_s": restore_cpu_s,
        "longest_step_s": longest_s, "longest_step_cpu_s": longest_cpu_s,
        "restored_rss_bytes_a_column": restored_rss / columns, "rss_bytes_a_column": running_rss / columns,
        "rss_gb": rss_bytes() / 1e9, "rows_fed": rows, "feed_ns_a_value": feed_cpu_s / (rows * shape.columns) * 1e9,
        "alerts": detect.counts.alerts.total(), "budget_bytes_per_s": given.worker.state_bytes_per_s,
        "saved_bytes_per_s_mean": sum(seconds[3:]) / len(seconds[3:]), "saved_bytes_per_s_most": max(seconds[3:]),
        "unsaved_streams_left": unsaved,
    }  # fmt: skip


def _load_kernels(given: Settings, document: bytes) -> None:
    """Compiled code takes its 50 MB once a process, however many columns there are."""
    reference, book = load(document), ReferenceBook()
    book.apply(key_of(reference.stream, FIRST_EPOCH), document)
    stream = StreamFactory(given).stream(reference.stream)
    stream.feed(batch(np.random.default_rng(3), reference, 0, BATCH), book)


# ---- all of it ----


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restore", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="a share of the streams")
    parser.add_argument("--only", type=int, default=None, help="number of the one shape to measure, from 0")
    parser.add_argument("--part", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.part:
        what, shape, path = asked.part[0], Shape(int(asked.part[1]), int(asked.part[2]), asked.part[3]), asked.part[4]
        if what == "fill":
            fill(shape, Path(path))
        else:
            print(json.dumps(restore(shape, Path(path))))
        return 0
    found = []
    for shape in SHAPES if asked.only is None else SHAPES[asked.only :][:1]:
        scaled = shape._replace(streams=max(1, round(shape.streams * asked.scale)))
        with tempfile.TemporaryDirectory() as directory:
            parts = [*map(str, scaled), str(Path(directory) / "records")]
            for what in ("fill", "restore"):
                command = [sys.executable, "-m", "benchmarks.restore", "--part", what, *parts]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found.append(scaled._asdict() | json.loads(printed) | {"width": shape.columns})
        print(json.dumps(found[-1]), file=sys.stderr)
    if asked.scale == 1.0:
        (HOME / "restore.json").write_text(json.dumps(merged(found), indent=1) + "\n")
        (HOME / "restore.md").write_text(markdown(merged(found)))
    return 0


def merged(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is known of the shapes, with what was found now; for runs of one shape at a time."""
    path = HOME / "restore.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    by_shape = {(each["streams"], each["width"], each["references"]): each for each in (*kept, *found)}
    return [by_shape[shape] for shape in SHAPES if shape in by_shape]


def markdown(found: Sequence[dict[str, Any]]) -> str:
    lines = [
        "# Restoring, and the size of state", "",
        f"Made by `python -m benchmarks.restore`; what is measured stands in its head. {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}, shared with other work. Gates: "
        + ", ".join(f"{name} ≤ {gate:,.0f}" for name, gate in GATES.items()) + ".", "",
        "| | " + " | ".join(f"{f['streams']:,} streams × {f['width']:,}, {f['references']}" for f in found) + " |",
        "| --- |" + " ---: |" * len(found),
    ]  # fmt: skip
    for name in found[0]:
        if name not in {"streams", "references", "width"}:
            lines.append(f"| {name} | " + " | ".join(shown(f[name]) for f in found) + " |")
    return "\n".join(lines) + "\n"


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


if __name__ == "__main__":
    raise SystemExit(main())
