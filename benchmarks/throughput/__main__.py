"""Measures how fast the main job is, and writes `benchmarks/throughput.md` and `.json`.

    python -m benchmarks.throughput [--only PART ...] [--runs N] [--events N]

What needs a broker runs on a real Kafka of its own. With `--only`, the figures of the other parts stay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console

from benchmarks.throughput import added, detection, flat, latency, scaling, size, start
from benchmarks.throughput.results import PARTS, Figure, commit, write
from benchmarks.throughput.workload import fill, fill_labels
from scripts.kafka_node import KafkaNode, free_port
from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.broker.protocol import TopicSpec

PARTITIONS: Final = 6
ON_KAFKA: Final = frozenset({"main", "profile", "added", "scaling", "latency"})
WORDS: Final = {
    "main": "main job, one worker, both stages",
    "plain": "(a) plain consumer: kafka-python, orjson, river ADWIN + PageHinkley + Histogram",
    "poll": "(b) poll and count",
    "parse": "(c) poll and orjson.loads",
    "confluent": "(d) poll and take the values, confluent-kafka",
}
SHAPES: Final = {"single": ("one event a record", 1), "array": ("100 events a record", 100)}
GATES: Final = {("single", "plain"): (4.5, 6.0), ("single", "parse"): (0.55, 0.65), ("array", "plain"): (6.0, 10.0)}
"""(records, peer) → gate and goal of main ÷ peer."""

Told = dict[str, float]
console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument(
        "--main-events", type=int, default=3_000_000,
        help="of the main job, which loads its kernels first, and whose last events wait for a commit interval",
    )  # fmt: skip
    parser.add_argument(
        "--plain-events", type=int, default=100_000, help="of the plain consumer, whose first events cost most"
    )
    parser.add_argument(
        "--added-events", type=int, default=800_000,
        help="beside labels and segments, whose kernels and monitors are made first, and labels that wait",
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the parts that need no broker: rows, columns, seconds"
    )
    asked = parser.parse_args(arguments)
    how = "python -m benchmarks.throughput " + " ".join(arguments or sys.argv[1:])
    commit()  # that of all figures, before the first of them changes the report
    failed = _measure([part for part in asked.only if part not in ON_KAFKA], partial(_offline, asked=asked), how)
    on_kafka = [part for part in asked.only if part in ON_KAFKA]
    if on_kafka:
        with tempfile.TemporaryDirectory() as directory:
            node = KafkaNode(Path(directory), free_port())
            node.start()
            try:
                failed += _measure(on_kafka, partial(_on_kafka, node.address, asked=asked), how)
            finally:
                node.stop()
    return 1 if failed else 0


def _measure(parts: Sequence[str], measure: Callable[[str], list[Figure]], how: str) -> list[str]:
    """Part by part into the report: one that fails must not take the others along. Those that failed."""
    failed = []
    for part in parts:
        began_s = time.monotonic()
        console.print(f"{datetime.now():%H:%M} {part}: {PARTS[part]}", highlight=False)
        try:
            write(_told(measure(part)), how)
        except Exception:
            console.print_exception()
            failed.append(part)
        console.print(f"  {part} took {(time.monotonic() - began_s) / 60:.1f} min", highlight=False)
    return failed


def _offline(part: str, asked: argparse.Namespace) -> list[Figure]:
    match part:
        case "detection":
            return detection.measure(asked.runs, asked.scale)
        case "flat":
            return flat.measure(max(asked.runs // 2, 1), asked.scale)
        case "size":
            return size.measure(asked.scale)
        case _:
            return start.measure(asked.runs)


def _on_kafka(address: str, part: str, asked: argparse.Namespace) -> list[Figure]:
    figures = []
    match part:
        case "main":
            for shape, (_, per_record) in SHAPES.items():
                figures += _main_figures(shape, _compare(address, shape, per_record, asked))
        case "profile":
            for shape, (case, per_record) in SHAPES.items():
                _fill(address, f"profile-{shape}", asked.events, per_record)
                told = [_process("profile", address, f"profile-{shape}", asked.events, per_record)
                        for _ in range(min(asked.runs, 3) + 1)]  # fmt: skip
                figures += _profile_figures(case, told[1:])
        case "added":
            figures = _added(address, asked)
        case "scaling":
            figures = scaling.measure(address, asked.runs, asked.main_events // 2)
        case _:
            figures = latency.measure(address, 20.0, asked.events)
    return figures


def _added(address: str, asked: argparse.Namespace) -> list[Figure]:
    _fill(address, "added", asked.added_events, 1)
    _fill(address, "added-labelled", asked.added_events, 1, labelled=True)
    half = asked.added_events // 2
    _fill(address, "added-half", half, 1)
    broker = KafkaBroker(KafkaSettings((address,)))
    broker.create_topics([TopicSpec("added-labels", PARTITIONS)])
    broker.close()
    fill_labels(address, "added-labels", half)

    def run(case: str) -> Told:
        topic, labels = added.topics_of(case)
        told = _process(f"added-{case}", address, topic, half if labels else asked.added_events, 1)
        console.print(f"  {case:<9} {_cpu_us(told):>7.2f} µs a record", highlight=False)
        return told

    return added.figures(asked.runs, run)


def _compare(address: str, topic: str, per_record: int, asked: argparse.Namespace) -> dict[str, list[Told]]:
    """All consumers in turn; the first round, which also compiles the kernels, does not count."""
    _fill(address, topic, max(asked.events, asked.main_events), per_record)
    counts = dict.fromkeys(WORDS, asked.events) | {"plain": asked.plain_events, "main": asked.main_events}
    runs: dict[str, list[Told]] = {name: [] for name in WORDS}
    for run in range(asked.runs + 1):
        for name in WORDS:
            told = _process(name, address, topic, counts[name], per_record)
            console.print(f"  {run}/{asked.runs} {name:<9} {_rate(told):>9,.0f} events/s {_cpu_us(told):>7.1f} µs",
                          highlight=False)  # fmt: skip
            if run:
                runs[name].append(told)
    return runs


def _fill(address: str, topic: str, events: int, per_record: int, *, labelled: bool = False) -> None:
    broker = KafkaBroker(KafkaSettings((address,)))
    broker.create_topics([TopicSpec(topic, PARTITIONS)])
    broker.close()
    size = fill(address, topic, events, per_record, labelled=labelled)
    console.print(f"{topic}: {events:,} events of {size:.0f} bytes, {per_record} a record", highlight=False)


def _process(name: str, address: str, topic: str, events: int, per_record: int) -> Told:
    arguments = [name, address, topic, str(events), str(per_record)]
    command = [sys.executable, "-m", "benchmarks.throughput.consumers", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    told: Told = json.loads(done.stdout.splitlines()[-1])
    return told


def _rate(told: Told) -> float:
    return told["events"] / told["wall_s"]


def _cpu_us(told: Told) -> float:
    return 1e6 * told["cpu_s"] / told["events"]


def _main_figures(shape: str, runs: dict[str, list[Told]]) -> list[Figure]:
    case, figures = SHAPES[shape][0], []
    for peer in ("plain", "parse", "poll", "confluent"):
        gate, goal = GATES.get((shape, peer), (None, None))
        pairs = list(zip(runs["main"], runs[peer], strict=True))
        rates = median(_rate(main) / _rate(other) for main, other in pairs)
        work = median(_cpu_us(other) / _cpu_us(main) for main, other in pairs)
        figures.append(Figure("main", case, f"main ÷ {WORDS[peer]}: events/s", rates, "×", gate, goal))
        figures.append(Figure("main", case, "the same by CPU time", work, "×"))
    for name, told in runs.items():
        figures += [
            Figure("main", case, WORDS[name], median(map(_rate, told)), "events/s"),
            Figure("main", case, "its CPU time", median(map(_cpu_us, told)), "µs/event"),
            Figure("main", case, "its peak memory", median(each["rss_mb"] for each in told), "MiB"),
        ]
    return figures


def _profile_figures(case: str, runs: list[Told]) -> list[Figure]:
    """By stage; what the client's own threads do is the rest of the process."""
    stages = [name for name in runs[0] if name.startswith("stage ")]
    each = {name: median(1e6 * told[name] / told["events"] for told in runs) for name in stages}
    whole = median(map(_cpu_us, runs))
    each["stage client threads"] = whole - sum(each.values())
    ordered = sorted(each.items(), key=lambda item: -item[1])
    figures = [Figure("profile", case, name.removeprefix("stage "), value, "µs/event") for name, value in ordered]
    return [*figures, Figure("profile", case, "in all", whole, "µs/event")]


def _told(figures: list[Figure]) -> list[Figure]:
    for f in figures:
        console.print(f"  {f.case}: {f.metric} {f.value:,.2f} {f.unit} {'' if f.passed is not False else 'FAIL'}",
                      highlight=False)  # fmt: skip
    return figures


if __name__ == "__main__":
    sys.exit(main())
