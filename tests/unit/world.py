"""A small world for tests of the worker: a model with three features, its reference, and a broker in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import orjson

from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Message
from stream_monitor.config import Settings
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.publish import publish
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.replay import Replay
from stream_monitor.topics import specs
from stream_monitor.worker import STAGES, StageName, Worker

MODEL = "m"
START_MS = 1_700_000_000_000
STEP_MS = 10


def settings(instance: str = "a", **sections: Any) -> Settings:
    """Small topics, a budget that a test can exhaust, and an address nobody calls."""
    worker = {"commit_interval_s": 1.0, **sections.pop("worker", {})}
    detection = {"budget_events": 10_000_000, "warmup_events": 1_000, **sections.pop("detection", {})}
    return Settings.model_validate(
        {"kafka": {"bootstrap_servers": ["127.0.0.1:1"]}, "instance": instance, "topics": {"partitions": 2},
         "worker": worker, "detection": detection, **sections}
    )  # fmt: skip


def rows(count: int, *, drift_at: int | None = None, seed: int = 1, model: str = MODEL, first: int = 0) -> list[Row]:
    """`x` normal, `y` lognormal, `city` of three; from `drift_at` on x is 1 σ higher and Rome doubles."""
    rng = np.random.default_rng(seed)
    x, y, u = rng.normal(size=count), rng.lognormal(size=count), rng.random(count)
    drifted = np.arange(count) >= (count if drift_at is None else drift_at)
    x += drifted
    cities = np.where(u < np.where(drifted, 0.4, 0.2), "Rome", np.where(u < 0.7, "Paris", "Oslo"))
    return [
        Row(model, "", "", START_MS + (first + i) * STEP_MS,
            {"x": float(x[i]), "y": float(y[i]), "city": str(cities[i])}, float(x[i] > 0), None, str(first + i),
            0, first + i, 0)
        for i in range(count)
    ]  # fmt: skip


def reference(model: str = MODEL, segment_by: tuple[str, ...] = ()) -> Reference:
    options = FitOptions(season=Season.NONE, ordered=True, segment_by=segment_by)
    return fit(rows(5_000, seed=99, model=model), StreamKey(model), options)


def message(topic: str, row: Row, partition: int | None = None, stamp_ms: int | None = None) -> Message:
    event = {
        "model": row.model,
        "id": row.id,
        "time": row.time_ms,
        "features": row.features,
        "prediction": row.prediction,
    }
    return Message(topic, (row.id or "").encode(), orjson.dumps(event), partition, timestamp_ms=stamp_ms or row.time_ms)


class World:
    """A broker, its topics, a clock that tests turn, and the workers on it."""

    def __init__(
        self, base: Settings | None = None, *, partitions: int = 3, references: Sequence[Reference] = ()
    ) -> None:
        self.base = base or settings()
        self.now_s = 1_000.0
        self.broker = MemoryBroker(clock_ms=self.clock_ms)
        self.broker.create_topics(specs(self.base, predictions=partitions))
        if references:
            publish(self.broker, self.base.topics.references, "test", references)

    def clock_ms(self) -> int:
        return START_MS + int(self.now_s * 1000)

    def worker(self, instance: str = "a", stages: frozenset[StageName] = STAGES) -> Worker:
        named = self.base.model_copy(update={"instance": instance})
        return Worker(named, self.broker, stages, clock_s=lambda: self.now_s, clock_ms=self.clock_ms)

    def write(self, batch: Iterable[Row], partition: int | None = None, *, live: bool = False) -> None:
        """Records dated like their events, or (`live`) by the clock, one a millisecond."""
        now_ms = self.clock_ms()
        self.broker.append(
            [message(self.base.topics.predictions, row, partition, now_ms + i if live else None)
             for i, row in enumerate(batch)]
        )  # fmt: skip

    def turn(self, *workers: Worker, rounds: int = 1, step_s: float = 0.3) -> None:
        """Step the workers in turn, the clock going on between rounds."""
        for _ in range(rounds):
            for worker in workers:
                worker.step(0.0)
            self.now_s += step_s

    def settle(self, *workers: Worker, most: int = 200) -> None:
        """Step until everything is detected and saved."""
        calm = 0
        for _ in range(most):
            self.turn(*workers)
            calm = calm + 1 if all(worker.idle for worker in workers) and not self.behind() else 0
            if calm == 3:
                return
        raise AssertionError(f"not settled after {most} rounds")

    def behind(self) -> bool:
        """Whether predictions are not all encoded."""
        topic, group = self.base.topics.predictions, f"{self.base.group}-encode"
        partitions = self.broker.partitions([topic])
        committed = self.broker.group_offsets(group, partitions)
        return any((committed[p] or 0) < self.broker.log(p).end_offset for p in partitions)

    def alerts(self) -> list[dict[str, Any]]:
        return [orjson.loads(record.value or b"") for record in self.broker.records(self.base.topics.alerts)]

    def column_alerts(self) -> list[dict[str, Any]]:
        """Without what is said of the model as a whole."""
        return [alert for alert in self.alerts() if alert["scope"] == "column"]

    def rejects(self) -> list[dict[str, Any]]:
        return [orjson.loads(record.value or b"") for record in self.broker.records(self.base.topics.rejects)]


def replayed(base: Settings, given: Sequence[Reference], batch: Sequence[Row], cut: Callable[[int], int]) -> list[str]:
    """The alert ids of a replay; `cut` gives the size of the chunk that starts at a row."""
    ids: list[str] = []
    replay = Replay(base, given, lambda alert: ids.append(alert.id))
    start = 0
    while start < len(batch):
        size = cut(start)
        replay.feed(batch[start : start + size])
        start += size
    return ids
