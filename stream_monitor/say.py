"""An alert as a person reads it on a terminal. Pure; the markup is rich's."""

from __future__ import annotations

from typing import Final

from rich.markup import escape

from stream_monitor.alerts import Alert, AlertKind, Severity, State, minute

COLOURS: Final = {Severity.CRITICAL: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan", Severity.BENIGN: "dim"}
MARKS: Final = {State.FIRING: "▲ firing", State.UPDATED: "● updated", State.RESOLVED: "✔ resolved"}

INDENT: Final = "   "


def line(alert: Alert) -> str:
    """Two lines: what, and when; below, since when, and what happened.

    `2019-03-31 14:54  ▲ firing   critical  car-loan  car_value`
    `   since 2019-03-31 02:51 (83 rows): median 21,902 → 38,394, …`
    """
    colour = "green" if alert.state is State.RESOLVED else COLOURS[alert.severity]
    head = f"{minute(alert.detected.time)}  [{colour}]{MARKS[alert.state]:<10} {alert.severity:<8}[/]"
    dated = alert.state is State.RESOLVED or alert.kind is AlertKind.INCIDENT  # an incident's text says since when
    since = "" if dated else f"[dim]{escape(_since(alert))}:[/] "
    subject = alert.column or alert.kind
    told = escape(alert.summary.removeprefix(f"{alert.column}: "))
    why = f"  [dim]{escape(alert.reason)}[/]" if alert.state is State.UPDATED else ""
    return f"{head}  {escape(str(alert.stream))}  [bold]{escape(subject)}[/]{why}\n   {INDENT}{since}{told}"


def _since(alert: Alert) -> str:
    rows = alert.detected.rows_since_onset
    return f"since {minute(alert.onset.time)} ({rows:,} row{'' if rows == 1 else 's'})"
