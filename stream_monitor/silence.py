"""A stream that stops, and one that has ended. Pure; time is that of the ticks, see `ordering.Clock.watermark_ms`.

That clock says up to which time every input partition has been read, by the records' own time stamps. So a backlog,
however old, cannot look like a silence: while it is read, the clock stands where it has been read to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.alerts import (
    Alert,
    AlertKind,
    Detected,
    Onset,
    Severity,
    State,
    alert_id,
)
from stream_monitor.compiled import njit
from stream_monitor.reference import StreamKey
from stream_monitor.trail import Origin

PERIOD_MS: Final = 14 * 86_400_000
"""The longest pause is remembered over this period and the one before: long enough for weekends and holidays."""
LATEST_MS: Final = 253_402_300_799_999
LEARN_MS: Final = 86_400_000
"""A rhythm is known after a day: the first night must not look like a silence."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When a stream counts as silent, and when as ended.

    `after_s`: silent after this long; None: after `factor` times its longest pause of the last weeks, but not before
    `least_s`, and not within its first day. `ttl_s`: ended.
    """

    after_s: float | None = None
    factor: float = 3.0
    least_s: float = 600.0
    ttl_s: float = 604_800.0


class Rhythm(msgspec.Struct):
    """When a stream's rows came, by their merge times. `last`: the input row (partition, offset, index, event time) of
    the newest; `longest_ms`, `before_ms`: the longest pause of the period that `period` numbers, and of the one before
    it; `silent`: id of the open alert."""

    first_ms: int
    last_ms: int
    last: tuple[int, int, int, int]
    period: int = 0
    longest_ms: int = 0
    before_ms: int = 0
    silent: str = ""

    def see(self, times_ms: npt.NDArray[np.int64], last: Origin) -> None:
        """Rows came, at these merge times, in the order they were fed."""
        known = np.array([self.last_ms, self.period, self.longest_ms, self.before_ms], dtype=np.int64)
        _listen(times_ms, known)
        self.last_ms, self.period, self.longest_ms, self.before_ms = known.tolist()
        self.last = (last.partition, last.offset, last.index, last.time_ms)

    def silent_at(self, policy: Policy) -> int | None:
        """When it will count as silent, if nothing comes; None: it does already, or its rhythm is not known yet."""
        if self.silent:
            return None
        if policy.after_s is not None:
            return self.last_ms + round(policy.after_s * 1000)
        if self.last_ms - self.first_ms < LEARN_MS:
            return None
        usual_ms = max(self.longest_ms, self.before_ms)
        return self.last_ms + round(max(policy.least_s * 1000, policy.factor * usual_ms))

    def ended_at(self, policy: Policy) -> int:
        return self.last_ms + round(policy.ttl_s * 1000)

    def next_look_ms(self, policy: Policy) -> int:
        """Nothing is to be decided before, whatever comes: new rows only put it off."""
        silent_at = self.silent_at(policy)
        return self.ended_at(policy) if silent_at is None else min(silent_at, self.ended_at(policy))


@njit
def _listen(times_ms: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> None:
    """Bring `known` (last, period, longest, before) up to these times; a hostile batch may hold any numbers."""
    for i in range(len(times_ms)):
        time = max(known[0], min(max(times_ms[i], 0), LATEST_MS))
        period = time // PERIOD_MS
        if period != known[1]:
            known[3] = known[2] if period == known[1] + 1 else 0
            known[1], known[2] = period, 0
        known[2] = max(known[2], time - known[0])
        known[0] = time


def fall_silent(stream: StreamKey, rhythm: Rhythm, policy: Policy, topic: str) -> Alert:
    """The alert of a stream whose time is up; everything in it follows from its rows, not from when it was noticed."""
    at_ms = rhythm.silent_at(policy)
    assert at_ms is not None
    origin = Origin(*rhythm.last)
    rhythm.silent = _id(stream, State.FIRING, origin)
    waited = _duration(at_ms - rhythm.last_ms)
    text = f"no events for {waited}"
    if policy.after_s is None:
        text += f"; its longest pause of the last weeks was {_duration(max(rhythm.longest_ms, rhythm.before_ms))}"
    return _alert(stream, rhythm, State.FIRING, rhythm.silent, text, at_ms, topic, origin)


def come_back(stream: StreamKey, rhythm: Rhythm, first: Origin, first_ms: int, topic: str, reason: str) -> Alert:
    """The end of a silence, at the first row that came (or, `reason` ended, none)."""
    text = f"events again, after {_duration(first_ms - rhythm.last_ms)}" if reason == "returned" else "the stream ended"
    alert = _alert(stream, rhythm, State.RESOLVED, _id(stream, State.RESOLVED, first), text, first_ms, topic, first)
    rhythm.silent = ""
    return alert.model_copy(update={"reason": reason})


def _alert(
    stream: StreamKey, rhythm: Rhythm, state: State, identity: str, text: str, at_ms: int, topic: str, origin: Origin
) -> Alert:
    return Alert(
        id=identity, episode=rhythm.silent, scope="stream", state=state, kind=AlertKind.SILENT,
        severity=Severity.WARNING, model=stream.model, version=stream.version, segment=stream.segment, column="",
        role="", summary=f"{stream}: {text}",
        onset=Onset.at(replace(Origin(*rhythm.last), time_ms=rhythm.last_ms)),
        detected=Detected.at(replace(origin, time_ms=at_ms), topic),
    )  # fmt: skip


def _id(stream: StreamKey, state: State, origin: Origin) -> str:
    return alert_id("", "", "stream", AlertKind.SILENT, stream, "", state, origin)


def _duration(ms: int) -> str:
    """For people.

    >>> [_duration(ms) for ms in (4_000, 600_000, 7_200_000, 200_000_000)]
    ['4 s', '10 min', '2.0 h', '2.3 days']
    """
    seconds = ms / 1000
    for most, unit, text in ((100, 1, "{:.0f} s"), (5_400, 60, "{:.0f} min"), (172_800, 3_600, "{:.1f} h")):
        if seconds < most:
            return text.format(seconds / unit)
    return f"{seconds / 86_400:.1f} days"
