"""What the long runs found, into the table of docs/guarantees.md: each test that passed replaces its own line."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.oracle import Committed, coded_rows

GUARANTEES: Final = Path(__file__).parents[2] / "docs" / "guarantees.md"
BEGIN: Final = "<!-- written by `make test-faults`: begin -->"
END: Final = "<!-- end -->"
HEAD: Final = "| test | what was done to it | what came out | minutes | on |\n| --- | --- | --- | --- | --- |\n"


def listed(counts: Mapping[str, int]) -> str:
    """
    >>> listed({"kill": 3, "broker kill": 1})
    '3 × kill, 1 × broker kill'
    """
    return ", ".join(f"{count} × {what}" for what, count in counts.items())


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    test: str
    done: str
    found: str
    minutes: float
    on: str

    def __str__(self) -> str:
        return f"| `{self.test}` | {self.done} | {self.found} | {self.minutes:.1f} | {self.on} |"


class Report:
    """Takes down the figures of one test."""

    def __init__(self, test: str) -> None:
        self.test = test
        self.done = ""
        self.found = ""

    def __call__(self, done: str, committed: Committed | None = None, more: str = "") -> None:
        """`done`: the faults. The rest is what `reckon` has compared: it has failed if anything was lost or twice."""
        self.done = done
        found = [more] if more else []
        if committed is not None:
            rows, alerts = coded_rows(committed.codes).total(), len(committed.alerts)
            found.insert(
                0, f"{rows:,} events, {len(committed.rejects):,} rejects, {alerts:,} alerts: none lost or twice"
            )
        self.found = "; ".join(found)

    def write(self, seconds: float) -> None:
        """Put the line where it belongs, if the run is one whose results are kept (FAULTS_REPORT=1)."""
        if self.done and os.environ.get("FAULTS_REPORT") == "1":
            on = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
            line = Line(self.test, self.done, self.found, seconds / 60, on)
            GUARANTEES.write_text(with_line(GUARANTEES.read_text(), line))


def with_line(text: str, line: Line) -> str:
    """The document with this line in its table, in place of the test's former one."""
    before, _, rest = text.partition(BEGIN)
    inside, _, after = rest.partition(END)
    lines = {kept.split("`")[1]: kept for kept in inside.splitlines() if kept.startswith("| `")}
    lines[line.test] = str(line)
    body = "\n".join(lines[name] for name in sorted(lines))
    return f"{before}{BEGIN}\n\n{HEAD}{body}\n\n{END}{after}"
