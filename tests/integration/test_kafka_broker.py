"""What only a real Kafka can do to its client: refuse, hang, die, come back."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, errors
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from scripts.kafka_node import KafkaCluster, KafkaNode, free_port
from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.broker.protocol import Message, TopicPartition, TopicSpec
from stream_monitor.errors import BrokerError, BrokerUnavailable, OutcomeUnknown, TransactionAborted
from tests.conftest import SASL_PASSWORD, SASL_USER
from tests.contract.environment import (
    Environment,
    KafkaBackend,
    attempts,
    contract_settings,
    settle,
    start_reading,
    take,
)

HASTY = {
    "request_timeout_ms": 1_000,
    "delivery_timeout_ms": 1_500,
    "transaction_timeout_ms": 2_000,
    "connect_timeout_ms": 3_000,
}


@pytest.fixture
def env(kafka: KafkaNode) -> Iterator[Environment]:
    backend = KafkaBackend(kafka)
    environment = Environment(backend)
    yield environment
    environment.close()
    backend.close()


def test_nobody_there_is_said_in_time_and_leaves_nothing_behind() -> None:
    address = f"127.0.0.1:{free_port()}"
    broker = KafkaBroker(KafkaSettings((address,), connect_timeout_ms=500))
    threads = threading.active_count()
    started_s = time.monotonic()
    for attempt in (
        lambda: broker.topics(["t"]),
        lambda: broker.producer("p"),
        lambda: broker.consumer("g", ["t"], instance="i"),
        lambda: broker.reader([TopicPartition("t", 0)]),
    ):
        with pytest.raises(BrokerUnavailable, match=address) as caught:
            attempt()
        assert "bootstrap_servers" in str(caught.value)
    assert time.monotonic() - started_s < 10
    assert threading.active_count() == threads


def test_secrets_are_not_in_what_settings_print() -> None:
    settings = KafkaSettings(("b:1",), sasl_password="hush", ssl_password="hush")
    assert "hush" not in f"{settings!r} {settings.common()!r} {settings.producing('p')!r}"
    assert settings.common()["sasl_plain_password"] == "hush"


def test_an_answer_is_read_before_the_end_of_its_connection() -> None:
    """A broker that refuses a login answers and closes; both may be there before the client looks."""
    for kind in (KafkaTCPTransport, KafkaSSLTransport):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        transport: Any = object.__new__(type("Bare", (kind,), {"__str__": lambda _: "a transport"}))
        transport._sock = ours
        theirs.sendall(b"refused")
        theirs.close()
        assert transport._sock_recv() == (b"refused", None)
        data, error = transport._sock_recv()
        assert data == b""
        assert isinstance(error, Exception)
        ours.close()


@pytest.mark.kafka
def test_a_password_is_checked_and_never_printed(kafka: KafkaNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    good = KafkaSettings(
        (f"127.0.0.1:{kafka.listeners[0].port}",),
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username=SASL_USER,
        sasl_password=SASL_PASSWORD,
        connect_timeout_ms=5_000,
    )
    broker = KafkaBroker(good)
    assert broker.topics(["nothing"]) == {}
    broker.close()
    with pytest.raises(BrokerError, match="credentials") as caught:
        KafkaBroker(replace(good, sasl_password="wrong-secret", connect_timeout_ms=1_500)).topics(["t"])
    assert "wrong-secret" not in str(caught.value)
    assert SASL_PASSWORD not in caplog.text
    assert "wrong-secret" not in caplog.text


def test_a_commit_that_hangs_is_reported_to_the_watchdog(kafka: KafkaNode) -> None:
    stuck: list[str] = []
    barked = threading.Event()

    def bark(reason: str) -> None:
        stuck.append(reason)
        barked.set()

    broker = KafkaBroker(replace(contract_settings(kafka.address), commit_timeout_ms=100), on_stuck=bark)
    producer = broker.producer("hangs", probe=lambda step: step != "flush" or bool(barked.wait(10)))  # type: ignore[arg-type]
    producer.commit([], {}, None)
    assert len(stuck) == 1
    assert "hangs" in stuck[0]
    producer.close()
    broker.close()


def test_the_watchdog_ends_the_process_with_its_own_code() -> None:
    code = "from stream_monitor.broker.kafka import exit_process; exit_process('the transaction hangs')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == OutcomeUnknown.exit_code
    assert "the transaction hangs" in done.stderr


@pytest.mark.kafka
def test_an_unanswered_commit_has_an_unknown_outcome(env: Environment, kafka: KafkaNode) -> None:
    topic = env.topic()
    broker = KafkaBroker(replace(contract_settings(kafka.address), **HASTY))  # type: ignore[arg-type]
    producer = broker.producer(env.name("p"), probe=lambda step: kafka.freeze() if step == "commit" else None)
    try:
        for _ in range(2):
            with pytest.raises(OutcomeUnknown, match="not known"):
                producer.commit([Message(topic, None, b"v")], {}, None)
    finally:
        kafka.thaw()
        producer.close()
        broker.close()
    assert len(env.read_all(topic)) <= 1


@pytest.mark.kafka
def test_records_that_do_not_arrive_abort_the_transaction(env: Environment, kafka: KafkaNode) -> None:
    topic = env.topic()
    frozen: list[str] = []

    def freeze_once(step: str) -> None:
        if step == "flush" and not frozen:
            frozen.append(step)
            kafka.freeze()

    broker = KafkaBroker(replace(contract_settings(kafka.address), **HASTY))  # type: ignore[arg-type]
    producer = broker.producer(env.name("p"), probe=freeze_once)
    try:
        with pytest.raises(TransactionAborted, match="rolled back"):
            producer.commit([Message(topic, None, b"lost")], {}, None)
        with pytest.raises(BrokerUnavailable):
            producer.commit([Message(topic, None, b"in vain")], {}, None)
        kafka.thaw()
        producer.commit([Message(topic, None, b"kept")], {}, None)
    finally:
        kafka.thaw()
        producer.close()
        broker.close()
    assert [record.value for record in env.read_all(topic)] == [b"kept"]


@pytest.mark.kafka
def test_clients_outlive_the_broker(env: Environment, kafka: KafkaNode) -> None:
    topic, group = env.topic(), env.name("group")
    partition = TopicPartition(topic, 0)
    consumer, producer = env.consumer(group, topic, "a"), env.producer()
    settle([consumer], [1])
    start_reading(consumer, [partition])
    producer.commit([Message(topic, None, b"before")], {partition: 0}, consumer.member())
    assert [record.value for record in take(consumer, 1)] == [b"before"]
    producer.commit([], {partition: 1}, consumer.member())
    kafka.kill()
    assert not consumer.poll(0.5)
    kafka.start()
    for _ in attempts("a commit to succeed again"):
        for assigned in consumer.poll(0.1).assigned:
            start_reading(consumer, [assigned])
        if member := consumer.member():
            try:
                producer.commit([Message(topic, None, b"after")], {partition: 1}, member)
                break
            except (TransactionAborted, BrokerUnavailable):
                continue
    assert [record.value for record in take(consumer, 1)] == [b"after"]
    assert consumer.committed([partition]) == {partition: 1}
    assert env.broker.group_offsets(group, [partition]) == {partition: 1}


@pytest.mark.kafka
@pytest.mark.slow
def test_three_nodes_serve_with_one_down(kafka: KafkaNode, tmp_path: Path) -> None:
    cluster = KafkaCluster(tmp_path)
    try:
        cluster.start()
        broker = KafkaBroker(replace(contract_settings(""), bootstrap_servers=cluster.addresses))
        broker.create_topics([TopicSpec("t", 3)])
        producer = broker.producer("p")
        producer.commit([Message("t", None, b"v", partition=at) for at in range(3)], {}, None)
        cluster.nodes[2].kill()
        for _ in attempts("a commit with two nodes of three"):
            try:
                producer.commit([Message("t", None, b"v", partition=at) for at in range(3)], {}, None)
                break
            except (TransactionAborted, BrokerUnavailable):
                continue
        producer.close()
        broker.close()
    finally:
        cluster.stop()


def test_a_coordinator_that_is_loading_is_asked_again(kafka: KafkaNode) -> None:
    """Two refusals used to end the worker's connection, though the third answer would have come 0.1 s later."""
    broker = KafkaBroker(KafkaSettings((kafka.address,)))
    refusals = [errors.CoordinatorLoadInProgressError() for _ in range(3)]

    def question(admin: KafkaAdminClient) -> int:
        if refusals:
            raise refusals.pop()
        return len(admin.describe_cluster()["brokers"])

    try:
        assert broker._ask("asking", question) == 1
        assert not refusals
    finally:
        broker.close()
