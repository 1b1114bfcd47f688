"""Brokers that die under the workers: one alone, and of three the one that matters most at the moment, or two."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, TopicMetadata
from kafka import KafkaAdminClient

from scripts.kafka_node import KafkaCluster, KafkaNode, free_port
from stream_monitor.errors import Fenced, OutcomeUnknown
from tests.faults.arena import await_
from tests.faults.conftest import MakeArena
from tests.faults.results import Report, listed

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.long,
    # kafka-python leaves sockets to the garbage collector when a connection ends while it is being opened
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]
SEED = int(os.environ.get("FAULTS_SEED", "1")) + 200
SUPERVISED = frozenset({Fenced.exit_code, OutcomeUnknown.exit_code})


def test_a_lone_broker_is_killed_and_bounced(
    kafka: KafkaNode, make_arena: MakeArena, tmp_path: Path, report: Report
) -> None:
    """Six times: twice just restarted, twice down for longer than a session, twice stopped in order."""
    assert kafka.is_running  # asked for first: it decides whether there is a Kafka here at all
    node = KafkaNode(tmp_path / "node", free_port())
    node.start()
    try:
        field = make_arena([node.address], SEED)
        field.restart_on = SUPERVISED
        field.load(300)
        field.start("a")
        field.start("b")
        for down_s in (0.0, 8.0, 0.0, 15.0):
            field.work_for(6.0)
            node.kill()
            time.sleep(down_s)
            node.start()
        for _ in range(2):
            field.work_for(6.0)
            node.stop()
            node.start()
        field.work_for(3.0)
        committed = field.reckon()
    finally:
        node.kill()
    report(
        "4 × kill −9 of the only broker (down for up to 15 s), 2 × stop; two workers", committed, field.ends_listed()
    )


class Trio:
    """Three nodes, and who of them is who."""

    def __init__(self, directory: Path) -> None:
        self.cluster = KafkaCluster(directory)
        self.cluster.start()
        self.admin = AdminClient({"bootstrap.servers": ",".join(self.cluster.addresses)})

    def node(self, node_id: int) -> KafkaNode:
        return next(node for node in self.cluster.nodes if node.node_id == node_id)

    def leader_of(self, topic: str, partition: int) -> KafkaNode:
        return self.node(self._topic(topic).partitions[partition].leader)

    def coordinator_of(self, group: str) -> KafkaNode:
        return self._home_of("__consumer_offsets", group)

    def transaction_coordinator_of(self, transactional_id: str) -> KafkaNode:
        return self._home_of("__transaction_state", transactional_id)

    def controller(self) -> KafkaNode:
        with closing(KafkaAdminClient(bootstrap_servers=list(self.cluster.addresses))) as client:
            quorum = client.describe_metadata_quorum()
        return self.node(quorum["topics"][0]["partitions"][0]["leader_id"])

    def await_whole(self) -> None:
        """Until every replica of every partition is in sync again."""

        def whole() -> bool:
            topics = self.admin.list_topics(timeout=10).topics.values()
            return all(len(p.isrs) == 3 for topic in topics for p in topic.partitions.values())

        await_(whole, "all replicas are in sync")

    def _home_of(self, topic: str, name: str) -> KafkaNode:
        return self.leader_of(topic, abs(_java_hash(name)) % len(self._topic(topic).partitions))

    def _topic(self, name: str) -> TopicMetadata:
        return self.admin.list_topics(name, timeout=10).topics[name]


def _java_hash(text: str) -> int:
    """What Java's String.hashCode gives, by which Kafka finds a coordinator."""
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


@pytest.fixture
def trio(kafka: KafkaNode, tmp_path: Path) -> Iterator[Trio]:
    assert kafka.is_running
    made = Trio(tmp_path / "trio")
    yield made
    for node in made.cluster.nodes:
        node.kill()


def test_of_three_brokers_the_one_that_matters_is_killed_and_then_two(
    trio: Trio, make_arena: MakeArena, report: Report
) -> None:
    field = make_arena(list(trio.cluster.addresses), SEED + 1)
    field.restart_on = SUPERVISED
    topics = field.settings.topics
    roles = {
        "leader of predictions": lambda: trio.leader_of(topics.predictions, 0),
        "leader of codes": lambda: trio.leader_of(topics.codes, field.random.randrange(4)),
        "leader of state": lambda: trio.leader_of(topics.state, field.random.randrange(4)),
        "group coordinator": lambda: trio.coordinator_of(f"{field.name}-detect"),
        "transaction coordinator": lambda: trio.transaction_coordinator_of(f"{field.name}.a.detect"),
        "controller": trio.controller,
    }
    field.load(300)
    field.start("a")
    field.start("b")
    field.work_for(5.0)
    killed: Counter[str] = Counter()
    for role, find in roles.items():
        node = find()
        node.kill()
        killed[f"kill −9 of the {role}"] += 1
        field.work_for(field.random.choice((4.0, 8.0)))
        node.start()
        trio.await_whole()
        field.work_for(2.0)
    first, second = field.random.sample(trio.cluster.nodes, 2)
    for node in (first, second):
        node.kill()
    field.work_for(20.0)
    for node in (first, second):
        node.launch()
    for node in (first, second):
        node.await_ready(120.0)
    trio.await_whole()
    field.work_for(3.0)
    report(f"{listed(killed)}, then two of three down for 20 s", field.reckon(), field.ends_listed())
