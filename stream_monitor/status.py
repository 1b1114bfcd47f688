"""What the status topic says: how every stream stands, and which versions appeared. Compacted; one record a stream.

Keys: `["stream", model, version, segment]`, `["labels", model]` and `["new_version", model, version]`. A record is
written with the state of its stream or model, in the same transaction: with every alert, else at most once a minute by
the ticks' clock; that of a stream that ends is deleted.
It is for people and dashboards: nothing of ours reads it back, and nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

from stream_monitor.alerts import rfc3339
from stream_monitor.book import epoch_of
from stream_monitor.broker.protocol import Broker, TopicPartition
from stream_monitor.errors import TopicMismatch
from stream_monitor.events import DATES_MS
from stream_monitor.limits import UNBORN
from stream_monitor.live import live_records
from stream_monitor.trail import FINE

if TYPE_CHECKING:
    from stream_monitor.lifecycle import Episode
    from stream_monitor.model import Model
    from stream_monitor.monitor import Monitor
    from stream_monitor.reference import StreamKey
    from stream_monitor.relations import RelationEpisode
    from stream_monitor.scoring import Scoring
    from stream_monitor.stream import Stream

EVERY_MS: Final = 60_000
"""Between two records of one stream that has no news, by the ticks' clock."""
MOST_OPEN: Final = 20
"""Open alerts that a record lists."""
MOST_SCORED: Final = 50
"""Streams whose metrics a record lists."""
_DAY_S: Final = 86_400


def stream_key(key: StreamKey) -> bytes:
    return orjson.dumps(["stream", *key])


def version_key(model: str, version: str) -> bytes:
    return orjson.dumps(["new_version", model, version])


def labels_key(model: str) -> bytes:
    return orjson.dumps(["labels", model])


def stream_record(stream: Stream, budget_events: int, clock_ms: int) -> bytes:
    """How a stream stands. `rate`: events a second over its last rows, by event time; `false_alarm_days`: the mean time
    between two false alarms that the budget and that rate make; `relations`: columns looked at by pairs."""
    monitor, key = stream.monitor, stream.key
    rate = _rate(monitor) if monitor is not None else None
    document: dict[str, Any] = {
        "type": "stream", "model": key.model, "version": key.version, "segment": key.segment,
        "as_of": _dated(clock_ms), "learning": monitor is None,
        "rows": monitor.rows if monitor is not None else len(stream.warmup),
        "first_seen": _dated(stream.birth.first_ms) if stream.birth != UNBORN else None,
        "last_seen": _last_seen(stream), "rate": rate, "budget_events": budget_events,
        "false_alarm_days": _rounded(budget_events / rate / _DAY_S) if rate else None,
    }  # fmt: skip
    if monitor is None:
        document["rows_wanted"] = stream.warmup_rows
        return orjson.dumps(document)
    entry = monitor.entry
    episodes = sorted(monitor.episodes.values(), key=lambda episode: episode.opened_row)
    related = monitor.relating.episodes if monitor.relating is not None else {}
    named: list[tuple[str, Episode | RelationEpisode]] = [
        (entry.reference.columns[each.column].name, each) for each in episodes
    ]
    document |= {
        "columns": len(entry.reference.columns),
        "reference": {"digest": entry.digest, "epoch": epoch_of(entry.generation),
                      "origin": entry.reference.source.origin, "n": entry.reference.source.rows},
        "relations": len(monitor.relating.pairs.names) if monitor.relating is not None else 0,
        "alerts_open": len(episodes) + len(related),
        "open": [{"column": name, "severity": each.severity.value, "since": rfc3339(each.onset[3]), "episode": each.id}
                 for name, each in (*named, *related.items())][:MOST_OPEN],
    }  # fmt: skip
    return orjson.dumps(document)


def labels_record(model: Model, clock_ms: int) -> bytes:
    """What became of a model's predictions and labels, and how good the predictions of each of its streams are.

    `counts`: see `waiting.Counts`; `coverage`, `delay_s`: see `model.Report`; `metrics`: over the last outcomes, each
    with its interval, beside what it was in training (`reference`).
    """
    report = model.report()
    keys, scorings = list(model.streams), sorted(model.scorings.items())[:MOST_SCORED]
    return orjson.dumps(
        {
            "type": "labels", "model": model.name, "as_of": _dated(clock_ms), "waiting": report.waiting,
            "coverage": _rounded(report.coverage) if report.coverage is not None else None,
            "delay_s": report.delay_s, "counts": msgspec.structs.asdict(report.counts),
            "streams": [_scored(keys[number], scoring) for number, scoring in scorings],
        }
    )  # fmt: skip


def _scored(key: StreamKey, scoring: Scoring) -> dict[str, Any]:
    performance = scoring.performance
    known = performance.metrics if performance is not None else {}
    open_ = sorted(scoring.open_alerts(), key=itemgetter(3))
    return {
        "version": key.version, "segment": key.segment, "learning": performance is None,
        "outcomes": scoring.monitor.rows if scoring.monitor is not None else 0,
        "metrics": {name: {"value": _short(each.value), "low": _short(each.low), "high": _short(each.high),
                           "n": each.n, "reference": _short(known[name]) if name in known else None}
                    for name, each in scoring.metrics().items()},
        "alerts_open": len(open_),
        "open": [{"kind": kind.value, "subject": subject, "since": rfc3339(since_ms), "episode": episode}
                 for kind, subject, episode, since_ms in open_[:MOST_OPEN]],
    }  # fmt: skip


def version_record(key: StreamKey, others: Iterable[str], first_ms: int) -> bytes:
    """A version of a model that is seen for the first time, beside others."""
    return orjson.dumps(
        {"type": "new_version", "model": key.model, "version": key.version, "first_seen": _dated(first_ms),
         "others": sorted(others)}
    )  # fmt: skip


def _dated(time_ms: int) -> str | None:
    """None where a clock that is none was heard of."""
    return rfc3339(time_ms) if time_ms in DATES_MS else None


def _last_seen(stream: Stream) -> str | None:
    if stream.monitor is not None and stream.monitor.rows:
        return rfc3339(stream.monitor.trail.at(stream.monitor.rows - 1).time_ms)
    return rfc3339(stream.warmup[-1].time_ms) if stream.warmup else None


def _rate(monitor: Monitor) -> float | None:
    """Events a second over the last thousand rows; None where that cannot be told."""
    last = monitor.rows - 1
    first = max(0, monitor.rows - FINE)
    if last <= first:
        return None
    passed_ms = monitor.trail.at(last).time_ms - monitor.trail.at(first).time_ms
    return _rounded((last - first) * 1_000 / passed_ms) if passed_ms > 0 else None


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def read(broker: Broker, topic: str) -> list[dict[str, Any]]:
    """The present records of the topic, by key. Raises TopicMismatch without it, BrokerUnavailable if it cannot be read
    to its end."""
    info = broker.topics([topic]).get(topic)
    if info is None:
        raise TopicMismatch(f"topic {topic!r} does not exist: create it with `stream-monitor topics create`")
    found = live_records(broker, [TopicPartition(topic, number) for number in range(info.partitions)])
    return [orjson.loads(found[key]) for key in sorted(found)]
