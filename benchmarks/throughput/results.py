"""One measured figure, and the report of all of them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

HOME: Final = Path(__file__).parents[1]
JSON: Final = HOME / "throughput.json"
PARTS: Final = {
    "main": "The main job, beside what a plain consumer and the client itself need",
    "profile": "Where the main job's CPU time goes",
    "detection": "Detection alone: codes in, alerts out, all four detectors",
    "flat": "Many streams, wide streams",
    "added": "Labels and segments, beside a main job with neither",
    "size": "State and memory",
    "scaling": "Two workers",
    "latency": "From produced to alert visible",
    "start": "Start-up of `run`",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """`gate` and `goal`: bounds, from below where `least`. A figure without them is for information."""

    part: str
    case: str
    metric: str
    value: float
    unit: str
    gate: float | None = None
    goal: float | None = None
    least: bool = True
    peers: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        if self.gate is None:
            return None
        return self.value >= self.gate if self.least else self.value <= self.gate

    def record(self) -> dict[str, object]:
        """As the detection benchmark writes it."""
        fields = asdict(self)
        del fields["part"], fields["least"]
        rounded = round(self.value, 4)
        return {"test": self.part, **fields, "value": rounded, "oracle": None, "pass": self.passed,
                "bound": None if self.gate is None else ("at least" if self.least else "at most")}  # fmt: skip


def write(figures: Sequence[Figure], how: str) -> None:
    """Put the figures in the place of those of the same parts, and the report beside them."""
    measured = {figure.part for figure in figures}
    kept = [record for record in _read() if record["test"] not in measured]
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    load = os.getloadavg()[2]
    stamp = f"`{how}` at {commit()}, {now} UTC, load average {load:.1f} before and during it"
    fresh = [{**figure.record(), "measured": stamp} for figure in figures]
    order = list(PARTS)
    records = sorted(kept + fresh, key=lambda record: order.index(str(record["test"])))
    JSON.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    JSON.with_suffix(".md").write_text("\n".join(_lines(records)) + "\n")


@cache
def commit() -> str:
    """Of the tree that is measured, as it was when this was first asked: a report that is written changes the tree."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HOME, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "an unknown commit"


def _read() -> list[dict[str, object]]:
    if not JSON.exists():
        return []
    records = json.loads(JSON.read_text())
    return [record for record in records if record["test"] in PARTS]


def _lines(records: Sequence[dict[str, object]]) -> Iterable[str]:
    yield "# Throughput"
    yield ""
    yield (
        f"`make bench-throughput` on a machine with {os.cpu_count()} cores, shared with the broker, the producers and "
        f"whatever else runs; Python {platform.python_version()}. Events of 20 numeric features, 2 categories and the "
        "prediction, 805 bytes of JSON, unless said. Rates are ratios run by run, medians over the runs; CPU time is "
        "that of the whole process, its client's threads included."
    )
    failed = [record for record in records if record["pass"] is False]
    yield ""
    yield f"{sum(r['pass'] is True for r in records)} gates hold, {len(failed)} do not."
    for part, title in PARTS.items():
        own = [record for record in records if record["test"] == part]
        if own:
            yield from ("", f"## {title}", "", str(own[0]["measured"]) + ".", "")
            yield from ("| case | what | measured | gate | goal | |", "| --- | --- | ---: | ---: | ---: | --- |")
            yield from map(_row, own)


def _row(record: dict[str, object]) -> str:
    value, unit, sign = float(str(record["value"])), record["unit"], "≥" if record["bound"] == "at least" else "≤"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 20 else 2
    gate, goal = (f"{sign} {bound:g}" if (bound := record[name]) is not None else "" for name in ("gate", "goal"))
    word = {None: "", True: "pass", False: "**FAIL**"}[record["pass"]]  # type: ignore[index]
    return f"| {record['case']} | {record['metric']} | {value:,.{digits}f} {unit} | {gate} | {goal} | {word} |"
