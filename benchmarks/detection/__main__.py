"""The command line: run, report, and say by the exit code whether a gate that held is broken."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.detection import report
from benchmarks.detection.gates import KNOWN_FAILURES
from benchmarks.detection.results import Result, number
from benchmarks.detection.runner import QUICK, TESTS, full, run

HOME: Final = Path(__file__).parents[1]
BROKEN: Final = 1


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    console = Console(stderr=True)
    plan = QUICK if asked.quick else full(asked.scale)
    tests = frozenset(asked.only or TESTS)
    started = time.monotonic()
    results = run(plan, tests, asked.jobs, console)
    took_s = time.monotonic() - started
    out = asked.out or (None if asked.quick or asked.only else HOME / "detection.md")
    if out is not None:
        command = f"python -m benchmarks.detection {' '.join(arguments if arguments is not None else sys.argv[1:])}"
        out.write_text(report.markdown(results, plan, command, took_s), encoding="utf-8")
        records = [result.to_json() for result in results]
        out.with_suffix(".json").write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        console.print(f"wrote {out} and {out.with_suffix('.json')}", highlight=False)
    return verdict(results, plan.name, console, took_s)


def verdict(results: Sequence[Result], profile: str, console: Console, took_s: float) -> int:
    """Tell what fails; only a gate that is not known to fail makes the exit code."""
    known = KNOWN_FAILURES[profile]
    gated = [result for result in results if result.passed is not None]
    failing = [result for result in gated if not result.passed]
    for result in failing:
        word = "known failure" if result.key in known else "BROKEN"
        value = f"{number(result.value)} {result.unit}".strip()
        line = f"{word}: {' · '.join(result.key)}: {value}, gate {result.gate}"
        console.print(line, style="yellow" if result.key in known else "bold red", highlight=False)
    for result in gated:
        if result.passed and result.key in known:
            console.print(f"holds now, take it off KNOWN_FAILURES: {' · '.join(result.key)}", highlight=False)
    broken = [result for result in failing if result.key not in known]
    console.print(
        f"{len(gated) - len(failing)} of {len(gated)} gates hold, {len(failing) - len(broken)} are known not to, "
        f"{len(broken)} are broken; {took_s:.0f} s",
        highlight=False,
    )
    return BROKEN if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a small seeded part, as CI runs it; writes nothing")
    size.add_argument("--full", action="store_true", help="everything (the default)")
    parser.add_argument("--scale", type=_share, default=1.0, help="of the full run, this share (default 1)")
    parser.add_argument("--only", type=_tests, metavar="A1,B3", help="these tests; writes nothing unless --out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="the report; the JSON goes beside it")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a share of the full run, above 0 and at most 1")
    return value


def _tests(text: str) -> list[str]:
    names = text.upper().split(",")
    unknown = [name for name in names if name not in TESTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no test {', '.join(unknown)}; there are {', '.join(TESTS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
