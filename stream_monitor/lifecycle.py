"""From signals to episodes: when an alert opens, is updated, is resolved. Frozen policy, separate state, decisions
with a reason; no I/O and no clock (time is counted in rows of the stream).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from stream_monitor.alerts import Severity
from stream_monitor.detectors.recovery import Strength

LEADERS: Final = frozenset({"evidence", "histogram", "ddm", "hddm_a", "hddm_w"})
"""Detectors that open an episode on their own: they compare with the reference (river's three for errors, see
`detectors/binary.py`, once a suspicion of theirs is confirmed by it). ADWIN and Page-Hinkley compare the
stream with itself, so a return to normal looks to them like a change; they open one only where the rows since their
onset differ from the reference (see `Monitor`)."""


EXPLANATIONS: Final = frozenset({"rescaled", "flipped", "stuck"})
"""Directions that name a fault outright: worth a message when they become clear after the first."""
EXPLAINED_WITHIN: Final = 300
"""Rows after the opening in which that may be."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """When an open alert is worth another message, and how grave it is.

    `update_ratio`: an `updated` is published when the JS distance grew or shrank by this factor since the last message.
    `update_rows`: fewest rows between two `updated` of one episode; doubles with each, so that a long drift is quiet.
    `warning_psi`, `critical_psi`: the population stability indexes people know.
    `relief`: the grade falls only when the effect is below this share of the threshold it had passed.
    `info_rows`: a drift too small for a warning becomes one after this many rows.
    `benign_rows`: an input whose drift has lasted this many rows, while no prediction of the model and no relation of
    an input with one has an open alert, is graded benign, however large its effect: the model says what it said.
    Errors and metrics have alerts of their own, and an incident they belong to is never benign.
    """

    update_ratio: float = 1.5
    update_rows: int = 1_000
    warning_psi: float = 0.1
    critical_psi: float = 0.25
    relief: float = 0.7
    info_rows: int = 100_000
    benign_rows: int = 1_000


class Episode(msgspec.Struct):
    """One open alert of one column. Rows are the stream's own numbers; `direction`: as last published."""

    id: str
    column: int
    opened_row: int
    onset_row: int
    earliest_row: int
    onset: tuple[int, int, int, int]
    earliest_time_ms: int
    severity: Severity
    js_distance: float
    published_row: int
    updates: int = 0
    reopenings: int = 0
    findings: dict[str, tuple[str, float, float, str, str]] = {}
    direction: str = ""
    enough: bool = False
    strength: Strength = Strength.UNKNOWN


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to publish now, and why."""

    publish: bool
    reason: str = ""


ENOUGH: Final = "enough rows to retrain on"
"""The reason of an update that says so."""


def severity(
    policy: Lifecycle, psi: float, open_rows: int, before: Severity, *, felt: bool = True
) -> Severity:  # fmt: skip
    """How grave: by effect and by duration; a lesser grade than `before` takes a clearly lesser effect. `felt`: whether
    what the model says may have changed with it."""
    if not felt and open_rows >= policy.benign_rows:
        return Severity.BENIGN
    slack = policy.relief if before in (Severity.WARNING, Severity.CRITICAL) else 1.0
    if psi >= policy.critical_psi * (slack if before is Severity.CRITICAL else 1.0):
        return Severity.CRITICAL
    if psi >= policy.warning_psi * slack or open_rows >= policy.info_rows:
        return Severity.WARNING
    return Severity.INFO


def update_due(policy: Lifecycle, episode: Episode, row: int, js_distance: float, grave: Severity) -> Verdict:
    """Whether an open episode changed enough since its last message to be worth another."""
    if row - episode.published_row < policy.update_rows * 2**episode.updates:
        return Verdict(False)
    if grave is not episode.severity:
        return Verdict(True, f"severity {episode.severity} → {grave}")
    floor = 0.02
    old, new = max(episode.js_distance, floor), max(js_distance, floor)
    if new / old >= policy.update_ratio:
        return Verdict(True, "effect grew")
    if old / new >= policy.update_ratio:
        return Verdict(True, "effect shrank")
    return Verdict(False)


def awaits_explanation(episode: Episode, row: int) -> bool:
    """Whether a fault that becomes clear only now would be news: strong drifts open an alert within a few rows."""
    return row - episode.opened_row < EXPLAINED_WITHIN and episode.direction not in EXPLANATIONS
