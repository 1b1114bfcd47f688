"""A catch-up after an outage raises no alert by itself: a million rows wait, a partition holding one region each.

What a worker finds then is all of a region's rows at once, partition by partition. Fed like that, they would be a drift
of nearly everything; they have to be put back into the order in which they happened.
"""

from __future__ import annotations

import os
import time
from typing import Final

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer as ForeignProducer

from stream_monitor.batch import CodedBatch, Origins, decode
from stream_monitor.broker.protocol import Record
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.ordering import is_tick
from stream_monitor.publish import publish
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.replay import Replay
from tests.faults.arena import Arena, await_
from tests.faults.conftest import MakeArena
from tests.faults.follower import Tally
from tests.faults.results import Report

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.long]
SEED: Final = int(os.environ.get("FAULTS_SEED", "1")) + 500
ROWS: Final = int(os.environ.get("CATCH_UP_ROWS", "1000000"))
BEFORE: Final = 20_000
QUIET_MS: Final = 60_000
"""Between what was read before and what waits: a worker at the end promises the present, by the records' clock."""
REFERENCE_ROWS: Final = 50_000
MODEL: Final = "shop"
REGIONS: Final = ("EU", "US", "IN", "BR", "JP", "ZA")
SHARES: Final = (0.30, 0.25, 0.20, 0.12, 0.08, 0.05)
"""Unequal, so that no two partitions are read to their end at the same time."""
PATIENCE_S: Final = 600.0
DETECTION: Final = {"budget_events": 100_000_000, "warmup_events": 5_000}


def rows(count: int, first_ms: int, seed: int) -> list[Row]:
    """One a millisecond, all alike; income and basket depend on the region, so that a region alone is a drift."""
    rng = np.random.default_rng(seed)
    region = rng.choice(len(REGIONS), size=count, p=SHARES)
    income, basket = rng.normal(size=count) + region, rng.lognormal(size=count) * (1.0 + region)
    score = 1.0 / (1.0 + np.exp(2.0 - income))
    return [
        Row(MODEL, "", "", first_ms + i, {"region": REGIONS[at], "income": inc, "basket": bas}, sco, None, None,
            at, i, 0)
        for i, (at, inc, bas, sco) in enumerate(
            zip(region.tolist(), income.tolist(), basket.tolist(), score.tolist(), strict=True)
        )
    ]  # fmt: skip


def reference() -> Reference:
    options = FitOptions(season=Season.NONE, ordered=True, segment_by=("region",))
    return fit(rows(REFERENCE_ROWS, 1_700_000_000_000, SEED), StreamKey(MODEL), options)


def write(field: Arena, given: list[Row]) -> None:
    """Each row to the partition of its region, dated as it happened."""
    producer = ForeignProducer({"bootstrap.servers": field.address, "linger.ms": 20, "enable.idempotence": True,
                                "compression.type": "lz4", "queue.buffering.max.messages": 100_000})  # fmt: skip
    for row in given:
        event = {"model": row.model, "time": row.time_ms, "features": row.features, "prediction": row.prediction}
        region, value = row.features["region"], orjson.dumps(event)
        while True:
            try:
                producer.produce(field.settings.topics.predictions, key=region, value=value, partition=row.partition,
                                 timestamp=row.time_ms)  # fmt: skip
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120.0) == 0


def coded(field: Arena) -> Tally:
    tally = Tally()
    for record in field.read(field.settings.topics.codes):
        if not is_tick(record.value):
            origins = _origins(record)
            for partition in np.unique(origins.partition).tolist():
                mine = origins.partition == partition
                tally.add(partition, origins.offset[mine].astype(np.int64), origins.index[mine].astype(np.int64))
    return tally


def _origins(record: Record) -> Origins:
    batch = decode(record.value)
    return batch.origins if isinstance(batch, CodedBatch) else Origins.of(batch.rows)


def written(field: Arena) -> Tally:
    tally = Tally()
    for at, end in field.ends(field.settings.topics.predictions).items():
        tally.add(at.partition, np.arange(end), np.zeros(end, np.int64))
    return tally


@pytest.mark.parametrize("workers", [("a",), ("a", "b")], ids=["one", "two"])
def test_a_catch_up_after_an_outage_raises_no_alert(workers: tuple[str, ...], arena: MakeArena, report: Report) -> None:
    field = arena(
        SEED, predictions=len(REGIONS), label_partitions=0, detection=DETECTION,
        models=[{"match": MODEL, "segment_by": ["region"]}],
        kafka={"max_poll_records": 10_000}, worker={"commit_interval_s": 1.0, "state_bytes_per_s": 5_000_000},
    )  # fmt: skip
    topics, known = field.settings.topics, reference()
    publish(field.broker, topics.references, f"{field.name}.{MODEL}", [known])
    began_ms = time.time_ns() // 1_000_000 - BEFORE - QUIET_MS - ROWS
    field.start("a")
    field.await_log("a", "partitions")
    write(field, rows(BEFORE, began_ms, SEED + 1))
    field.await_caught_up()
    field.await_truth()
    time.sleep(2.0)
    assert set(field.stop().values()) <= {0}

    waiting = rows(ROWS, began_ms + BEFORE + QUIET_MS, SEED + 2)
    write(field, waiting)
    started_s = time.monotonic()
    for worker in workers:
        field.start(worker)
    await_(lambda: _watched(field) >= ROWS, "all that waited is watched", PATIENCE_S, field.tails)
    took_s = time.monotonic() - started_s
    field.await_caught_up()
    field.await_truth()
    time.sleep(2.0)
    assert set(field.stop().values()) <= {0}

    alerts = [orjson.loads(record.value or b"") for record in field.read(topics.alerts)]
    assert [alert["summary"] for alert in alerts] == []
    assert coded(field).against(written(field)) == (0, 0), "events lost, events twice"
    told = _told_in_partition_order(field, known, waiting[: 20 * DETECTION["warmup_events"]])
    assert told > 0, "these rows show nothing, in whatever order"
    report(
        f"{ROWS:,} stationary rows keyed by region over {len(REGIONS)} partitions, written while nobody worked; "
        f"{len(workers)} started",
        more=f"0 alerts, nothing lost or twice, {took_s:.0f} s from the start to the last row; fed a partition at a "
        f"time, a tenth of these rows is {told} alerts",
    )


def _watched(field: Arena) -> int:
    field.tend()
    return int(sum(field.shown(name).total("stream_monitor_events_total", stage="detect") for name in field.workers))


def _told_in_partition_order(field: Arena, known: Reference, given: list[Row]) -> int:
    """How many alerts the same rows are when each partition is read to its end before the next."""
    found: list[str] = []
    replay = Replay(field.settings, [known], lambda alert: found.append(alert.id))
    replay.feed(sorted(given, key=lambda row: row.partition))
    return len(found)
