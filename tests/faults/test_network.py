"""Workers behind a bad network: latency, resets, black holes, lost and late replies to the end of a transaction."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.kafka_node import KafkaNode
from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.broker.protocol import Message, TopicSpec
from stream_monitor.errors import BrokerUnavailable, Fenced, OutcomeUnknown, TopicMismatch
from tests.faults.arena import await_
from tests.faults.conftest import MakeArena
from tests.faults.proxy import Weather
from tests.faults.results import Report, listed
from tests.faults.wire import Wire

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    # kafka-python leaves sockets to the garbage collector when a connection ends while it is being opened
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]
SEED = int(os.environ.get("FAULTS_SEED", "1")) + 100


@pytest.fixture(scope="module")
def _wire(kafka: KafkaNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    assert kafka.is_running  # asked for first: it decides whether there is a Kafka here at all
    made = Wire(tmp_path_factory.mktemp("wire"))
    made.node.start()
    yield made
    made.close()


@pytest.fixture
def wire(_wire: Wire) -> Iterator[Wire]:
    yield _wire
    weather = type(_wire.proxy.weather)()
    _wire.proxy.weather = weather
    _wire.proxy.seen.clear()


LOSE_ALL = 1_000_000


@pytest.mark.parametrize(
    ("stage", "weather"),
    [
        pytest.param("detect", {"lose_end_txn": LOSE_ALL}, id="detect-replies-lost"),
        pytest.param("encode", {"hold_end_txn_s": 8.0}, id="encode-requests-late"),
        pytest.param("encode", {"lose_end_txn": LOSE_ALL}, id="encode-replies-lost", marks=pytest.mark.long),
        pytest.param("detect", {"hold_end_txn_s": 8.0}, id="detect-requests-late", marks=pytest.mark.long),
        pytest.param("detect", {"delay_end_txn_s": 8.0}, id="detect-replies-late", marks=pytest.mark.long),
    ],
)
def test_a_worker_that_cannot_know_whether_it_committed_ends_with_code_7_and_the_next_reads_the_truth(
    wire: Wire, make_arena: MakeArena, stage: str, weather: dict[str, Any]
) -> None:
    """Replies lost or late: the broker has committed. Requests late: it has rolled back. It looks the same."""
    field = make_arena([wire.node.address], SEED, workers_at=[wire.proxy.address])
    field.produce(2_000)
    field.start("a")
    field.await_caught_up()
    wire.proxy.weather = Weather(**weather, end_txn_of=f".{stage}".encode())
    field.produce(1_500)
    assert field.join("a") == OutcomeUnknown.exit_code, field.tail("a")
    assert "not known whether" in field.log_of("a")
    assert sum(wire.proxy.seen.values()) > 0
    wire.proxy.weather = Weather()
    field.start("a")
    field.reckon()


def test_a_topic_is_not_said_to_be_missing_because_no_broker_answers(wire: Wire) -> None:
    """The client's error is the same; a worker that took it for a missing topic would end with code 5 for good."""
    direct = KafkaBroker(KafkaSettings((wire.node.address,)))
    direct.create_topics([TopicSpec("there", 1)])
    direct.close()
    short = KafkaSettings((wire.proxy.address,), request_timeout_ms=1_000, connect_timeout_ms=2_000)
    producer = KafkaBroker(short).producer("asks")
    wire.proxy.weather = Weather(black_hole=True)
    message = Message("there", b"k", b"v")
    with pytest.raises(BrokerUnavailable, match="did not answer"):
        producer.commit([message], {}, None)
    wire.proxy.weather = Weather()
    with pytest.raises(TopicMismatch, match="know no topic nowhere;"):
        producer.commit([message, Message("nowhere", b"k", b"v")], {}, None)
    producer.commit([message], {}, None)
    producer.close()


def test_readiness_tells_the_truth(wire: Wire, make_arena: MakeArena) -> None:
    """Ready, then cut off, then ready again; alive all the while. One that was killed answers nothing."""
    field = make_arena([wire.node.address], SEED + 3, workers_at=[wire.proxy.address])
    field.restart_on = frozenset({Fenced.exit_code, OutcomeUnknown.exit_code})
    field.produce(3_000)
    for instance in ("a", "b"):
        field.start(instance)
    field.await_caught_up()
    field.await_truth()
    field.kill("b")
    assert field.shown("b").ready is None
    everything = len(field.input_ends()) + field.settings.topics.partitions
    await_(lambda: field.shown("a").total("stream_monitor_partitions") == everything, "a holds everything")
    wire.proxy.weather = Weather(black_hole=True)
    await_(
        lambda: field.shown("a").ready is not True, "a that is cut off is not ready", on_failure=lambda: field.tail("a")
    )
    assert field.shown("a").alive or not field.workers["a"].is_alive()
    wire.proxy.weather = Weather()
    field.produce(500)
    field.reckon()


def test_lag_tells_the_truth(arena: MakeArena) -> None:
    """An encoder that is held back, for want of a detector, shows how far behind it is; and then that it is not."""
    field = arena(SEED + 4, worker={"max_codes_lag": 20})
    field.start("a", stage="encode")
    field.await_log("a", "encoding held back")
    field.produce(3_000)

    def lag() -> float:
        return field.shown("a").total("stream_monitor_lag_records", stage="encode")

    await_(lambda: 0 < lag() <= sum(field.input_ends().values()), "a shows that it is behind", on_failure=field.tails)
    assert field.shown("a").total("stream_monitor_encoding_held_back") == 1
    field.start("d", stage="detect")
    field.reckon()
    assert field.shown("a").ready is None, "it has stopped"


def test_a_connection_that_breaks_instead_of_the_reply_does_no_harm(wire: Wire, make_arena: MakeArena) -> None:
    """The client asks again over another connection, or the worker ends with code 7 and is started again."""
    field = make_arena([wire.node.address], SEED + 1, workers_at=[wire.proxy.address])
    field.restart_on = frozenset({OutcomeUnknown.exit_code})
    field.start("a")
    field.load(500)
    for turn in range(4):
        time.sleep(1.0)
        field.tend()
        wire.proxy.weather = Weather(cut_end_txn=1, end_txn_of=(b".encode", b".detect")[turn % 2])
        await_(lambda: wire.proxy.weather.cut_end_txn == 0, "a connection breaks", on_failure=lambda: field.tail("a"))
    assert wire.proxy.seen["end_txn_cut"] == 4
    field.reckon()


@pytest.mark.long
def test_latency_resets_and_black_holes(wire: Wire, make_arena: MakeArena, report: Report) -> None:
    """Three minutes of weather, seeded; workers that end are started again, as a supervisor does."""
    field = make_arena([wire.node.address], SEED + 2, workers_at=[wire.proxy.address])
    field.restart_on = frozenset({Fenced.exit_code, OutcomeUnknown.exit_code})
    draw, proxy = field.random, wire.proxy
    kinds: Counter[str] = Counter()
    field.load(500)
    field.start("a")
    field.start("b")
    for _ in range(18):
        kind = draw.choice(("latency", "resets", "black hole", "lost", "cut", "late"))
        lasts_s = draw.choice((1.0, 3.0, 6.0, 9.0))
        kinds[kind] += 1
        if kind == "resets":
            for _ in range(int(lasts_s)):
                proxy.reset()
                time.sleep(0.5)
        else:
            proxy.weather = {
                "latency": Weather(latency_s=draw.choice((0.05, 0.2, 0.5))),
                "black hole": Weather(black_hole=True),
                "lost": Weather(lose_end_txn=1),
                "cut": Weather(cut_end_txn=draw.choice((1, 5))),
                "late": Weather(delay_end_txn_s=draw.choice((0.5, 3.0, 6.0))),
            }[kind]
            time.sleep(lasts_s)
        proxy.weather = Weather()
        field.work_for(draw.choice((0.5, 2.0, 5.0)))
    report(listed(kinds), field.reckon(), field.ends_listed())
