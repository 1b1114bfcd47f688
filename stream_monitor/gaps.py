"""The alert that says records were lost before they were read: never silent. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from stream_monitor.alerts import Alert, AlertKind, Detected, EventRef, Gap, Onset, Severity, State, rfc3339


class Bounds(NamedTuple):
    """What a partition's log holds: the first offset kept, and its end."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Found:
    """A gap: the position that the log does not hold, where reading goes on, and how many records are lost (at most,
    where the topic was made anew: what it holds may have been read, or not)."""

    topic: str
    partition: int
    position: int
    resumed_at: int
    lost: int
    anew: bool


def find(topic: str, partition: int, position: int, bounds: Bounds) -> Found:
    """Where reading goes on: at the first record kept; in a log that ends before the position, at its end, since
    reading what is there might count it twice.

    >>> find("t", 0, 5, Bounds(10, 20)).resumed_at, find("t", 0, 50, Bounds(0, 20)).resumed_at
    (10, 20)
    """
    if position > bounds.end:
        return Found(topic, partition, position, bounds.end, bounds.end - bounds.first, True)
    return Found(topic, partition, position, bounds.first, max(0, bounds.first - position), False)


def made_anew(topic: str, partition: int, position: int, first: int) -> Found:
    """Of a log of which nothing was read yet: the broker has forgotten the offsets of the one that was there before."""
    return Found(topic, partition, position, first, 0, True)


def alert_of(gap: Found, now_ms: int) -> Alert:
    """Its id depends on what was lost alone: the same gap found again, after a crash before the commit, is the same
    alert."""
    name = f"{gap.topic}-{gap.partition}"
    parts = ["gap", gap.topic, gap.partition, gap.position, gap.resumed_at]
    identity = hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]
    if gap.anew and not gap.lost:
        text = (
            f"{name}: the topic was deleted and made anew: the old one was read up to {gap.position:,}; this one is "
            f"read from {gap.resumed_at:,} on, nothing of it is lost"
        )
    elif gap.anew:
        text = (
            f"{name}: the topic was deleted and made anew, or lost its end: read up to {gap.position:,}, but the log "
            f"ends at {gap.resumed_at:,}; going on there, up to {gap.lost:,} records are not watched"
        )
    else:
        text = (
            f"{name}: {gap.lost:,} records were deleted before they were read (offsets {gap.position:,} to "
            f"{gap.resumed_at - 1:,}): lengthen the topic's retention, or add workers"
        )
    time, event = rfc3339(now_ms), EventRef(partition=gap.partition, offset=gap.position)
    return Alert(
        id=identity, episode=identity, scope="topic", state=State.FIRING, kind=AlertKind.GAP,
        severity=Severity.CRITICAL, model="", version="", segment="", column=name, role="", summary=text,
        onset=Onset(time=time, earliest=time, event=event),
        detected=Detected(
            time=time, topic=gap.topic, partition=gap.partition, offset=gap.resumed_at, rows_since_onset=gap.lost
        ),
        gap=Gap(
            topic=gap.topic, partition=gap.partition, position=gap.position, resumed_at=gap.resumed_at,
            lost=gap.lost, made_anew=gap.anew,
        ),
    )  # fmt: skip
