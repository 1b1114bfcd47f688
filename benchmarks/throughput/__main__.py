"""Runs the consumers in turn on a real Kafka of its own and writes `benchmarks/throughput.md` and `.json`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console

from benchmarks.throughput.workload import fill
from scripts.kafka_node import KafkaNode, free_port
from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.broker.protocol import TopicSpec

HOME: Final = Path(__file__).parents[1]
PARTITIONS: Final = 6
WORDS: Final = {
    "main": "main job, one worker, both stages",
    "plain": "(a) plain consumer: kafka-python, orjson, river ADWIN + PageHinkley + Histogram",
    "poll": "(b) poll and count",
    "parse": "(c) poll and orjson.loads",
}
GATES: Final = {("single", "plain"): (4.5, 6.0), ("single", "parse"): (0.55, 0.65), ("array", "plain"): (6.0, 10.0)}
"""(records, peer) → gate and goal of main ÷ peer."""

Figures = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--plain-events", type=int, default=20_000, help="of the plain consumer, which is slow")
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args(arguments)
    console = Console(stderr=True)
    found: dict[str, dict[str, list[Figures]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        node = KafkaNode(Path(directory), free_port())
        node.start()
        try:
            for shape, per_record in (("single", 1), ("array", 100)):
                found[shape] = _measure(node.address, shape, per_record, asked, console)
        finally:
            node.stop()
    records = _records(found)
    (HOME / "throughput.json").write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    (HOME / "throughput.md").write_text(_markdown(found, records, asked))
    return 0


def _measure(
    address: str, shape: str, per_record: int, asked: argparse.Namespace, console: Console
) -> dict[str, list[Figures]]:
    broker = KafkaBroker(KafkaSettings((address,)))
    broker.create_topics([TopicSpec(shape, PARTITIONS)])
    broker.close()
    size = fill(address, shape, asked.events, per_record)
    console.print(f"{shape}: {asked.events:,} events of {size:.0f} bytes, {per_record} a record", highlight=False)
    runs: dict[str, list[Figures]] = {name: [] for name in WORDS}
    for run in range(asked.runs + 1):  # the first, which also compiles the kernels, does not count
        for name in WORDS:
            events = asked.plain_events if name == "plain" else asked.events
            figures = _process(name, address, shape, events, per_record)
            rate = figures["events"] / figures["wall_s"]
            console.print(f"  {run}/{asked.runs} {name:<6} {rate:>9,.0f} events/s", highlight=False)
            if run:
                runs[name].append(figures)
    return runs


def _process(name: str, address: str, topic: str, events: int, per_record: int) -> Figures:
    arguments = [name, address, topic, str(events), str(per_record)]
    command = [sys.executable, "-m", "benchmarks.throughput.consumers", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _rate(figures: Figures) -> float:
    return figures["events"] / figures["wall_s"]


def _records(found: dict[str, dict[str, list[Figures]]]) -> list[dict[str, object]]:
    """The same shape as the detection benchmark's JSON; ratios are medians of the ratios run by run."""
    records: list[dict[str, object]] = []
    for shape, runs in found.items():
        for name, figures in runs.items():
            cpu_us = median(1e6 * f["cpu_s"] / f["events"] for f in figures)
            for metric, value, unit in (
                ("rate", median(map(_rate, figures)), "events/s"),
                ("cpu", cpu_us, "µs/event"),
                ("rss", median(f["rss_mb"] for f in figures), "MiB"),
            ):
                records.append(_record(shape, f"{name} {metric}", value, unit, None))
        for peer in ("plain", "poll", "parse"):
            ratio = median(_rate(m) / _rate(p) for m, p in zip(runs["main"], runs[peer], strict=True))
            records.append(_record(shape, f"main ÷ {peer}", ratio, "×", GATES.get((shape, peer))))
    return records


def _record(shape: str, metric: str, value: float, unit: str, bounds: tuple[float, float] | None) -> dict[str, object]:
    gate, goal = bounds or (None, None)
    return {
        "test": "throughput", "case": shape, "metric": metric, "value": round(value, 3), "unit": unit, "peers": {},
        "oracle": None, "gate": gate, "goal": goal, "pass": None if gate is None else value >= gate,
    }  # fmt: skip


def _markdown(
    found: dict[str, dict[str, list[Figures]]], records: list[dict[str, object]], asked: argparse.Namespace
) -> str:
    lines = [
        "# Throughput",
        "",
        f"`python -m benchmarks.throughput --events {asked.events} --runs {asked.runs}`; {os.cpu_count()} cores shared "
        f"with the broker, Python {platform.python_version()}; medians of {asked.runs} runs; {PARTITIONS} partitions; "
        "20 numeric features, 2 categories and the prediction an event.",
    ]
    for shape, runs in found.items():
        lines += ["", f"## {'One event a record' if shape == 'single' else '100 events a record'}", ""]
        lines += ["| what | events/s | CPU µs/event | peak RSS MiB |", "| --- | ---: | ---: | ---: |"]
        for name, figures in runs.items():
            lines.append(
                f"| {WORDS[name]} | {median(map(_rate, figures)):,.0f} "
                f"| {median(1e6 * f['cpu_s'] / f['events'] for f in figures):.1f} "
                f"| {median(f['rss_mb'] for f in figures):.0f} |"
            )
        lines += ["", "| ratio | measured | gate | goal | |", "| --- | ---: | ---: | ---: | --- |"]
        for record in records:
            if record["case"] == shape and record["unit"] == "×":
                word = {None: "", True: "pass", False: "**FAIL**"}[record["pass"]]  # type: ignore[index]
                gate, goal = record["gate"] or "", record["goal"] or ""
                lines.append(f"| {record['metric']} | {record['value']:.2f} | {gate} | {goal} | {word} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
