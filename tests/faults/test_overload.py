"""Ten times more input than the workers can take: they fall behind, and that is all that happens."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import pytest

from scripts.kafka_node import KafkaNode
from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.broker.protocol import TopicPartition
from tests.faults.arena import Arena, await_
from tests.faults.conftest import MakeArena
from tests.faults.follower import Follower
from tests.faults.gauges import Gauges
from tests.faults.load import EVENTS, Load
from tests.faults.results import Report
from tests.faults.test_soak import compare, soak_settings

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.long,
    # kafka-python leaves sockets to the garbage collector when a connection ends while it is being opened
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]
SEED = int(os.environ.get("FAULTS_SEED", "1")) + 400
LASTS_S = float(os.environ.get("OVERLOAD_S", "180"))
MEASURE_S = 20.0
TIMES = 10
MOST_CODES_LAG = 300
MOST_GROWTH_MIB = 40.0
SAVED_BYTES_PER_S = 20_000_000
"""Every prediction waits for a label, which takes 76 bytes of state: saving is not to be what limits the workers."""


def test_ten_times_more_input_than_the_workers_can_take(kafka: KafkaNode, arena: MakeArena, report: Report) -> None:
    """Two encoders before one detector, so that the codes are where it would pile up."""
    settings = soak_settings()
    settings["worker"] |= {"max_codes_lag": MOST_CODES_LAG, "state_bytes_per_s": SAVED_BYTES_PER_S}
    field = arena(SEED, **settings)
    topics = field.settings.topics
    backlog = Load(kafka.address, topics.predictions, 1_000_000, SEED)
    backlog.start()
    await_(lambda: backlog.written > 10_000, "there is a backlog")
    backlog.stop()
    for instance, stage in (("a", "encode"), ("b", "encode"), ("d", "detect")):
        field.start(instance, stage=stage)
        field.await_log(instance, "partitions")
    time.sleep(5.0)
    gauges = Gauges(field)
    gauges.start()

    before = sum(at or 0 for at in field.committed("encode", topics.predictions).values())
    field.work_for(MEASURE_S)
    taken = sum(at or 0 for at in field.committed("encode", topics.predictions).values()) - before
    records_per_s = taken / MEASURE_S
    left = _behind(field.ends(topics.predictions), field.committed("encode", topics.predictions))
    assert records_per_s > 0, (left, field.tails())
    moves = {instance: field.log_of(instance).count("given_up") for instance in field.workers}
    load = Load(kafka.address, topics.predictions, TIMES * records_per_s, SEED + 1)
    load.start()
    most_lag, most_left, samples = 0, 0, 0
    deadline_s = time.monotonic() + LASTS_S
    while time.monotonic() < deadline_s:
        ends = field.ends(topics.codes)
        most_left = max(most_left, _behind(ends, field.done_to("detect", topics.codes)))
        most_lag, samples = max(most_lag, _behind(ends, field.committed("detect", topics.codes))), samples + 1
        field.work_for(0.5)
    load.stop()
    assert samples > LASTS_S / 10
    behind = sum(field.ends(topics.predictions).values()) - sum(
        at or 0 for at in field.committed("encode", topics.predictions).values()
    )
    assert behind > 2 * LASTS_S * records_per_s, "it was no overload"
    assert {instance: field.log_of(instance).count("given_up") for instance in field.workers} == moves, "no member left"
    gauges.stop()

    for instance in ("a", "b"):
        field.stop_one(instance)
    coded = {at: offset or 0 for at, offset in field.committed("encode", topics.predictions).items()}
    follower = Follower(field.settings, KafkaBroker(KafkaSettings((kafka.address,))))
    ends = field.ends(topics.codes)
    while any(follower.position()[at] < end for at, end in ends.items()):
        follower.advance(0.2)
    # What one encoder was ahead of the other waits until they are back: it is not committed.
    await_(lambda: _done(field, follower.last_batch), "detection catches up", on_failure=field.tails)
    field.stop_one("d")
    sums = compare(field, coded, follower.finish(), follower.rows)
    growths = {life.instance: life.growth_mib() for life in gauges.lives.values()}
    most_mib = max(max(life.rss_mib) for life in gauges.lives.values())
    assert max(growths.values()) < MOST_GROWTH_MIB, growths
    assert most_left < MOST_CODES_LAG
    assert most_lag < MOST_CODES_LAG
    rate = f"{TIMES} × {records_per_s * EVENTS:,.0f} events a second"
    report(
        f"{rate} for {LASTS_S:.0f} s, `max_codes_lag` {MOST_CODES_LAG}",
        more=f"{sums}; {behind * EVENTS:,} events behind at the end; memory at most {most_mib:.0f} MiB, grown by "
        f"{max(growths.values()):.0f} MiB after the first minute; codes lag at most {most_left} records, "
        f"and {most_lag} with those that wait for the encoder behind; nobody left",
    )


def _behind(ends: Mapping[TopicPartition, int], reached: Mapping[TopicPartition, int | None]) -> int:
    return sum(max(0, end - (reached[at] or 0)) for at, end in ends.items())


def _done(field: Arena, last: dict[TopicPartition, int]) -> bool:
    reached = field.done_to("detect", field.settings.topics.codes)
    return all(reached[at] > offset for at, offset in last.items())
