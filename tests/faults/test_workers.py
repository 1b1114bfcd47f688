"""Worker processes killed, stopped, hung and shuffled under load on a real Kafka: nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from itertools import cycle

import orjson
import pytest
from confluent_kafka import TopicPartition as ForeignPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions

from stream_monitor.broker.protocol import COMMIT_STEPS
from stream_monitor.errors import Fenced, TopicMismatch
from tests.faults.conftest import SESSION_S, Arena, await_

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    # kafka-python leaves sockets to the garbage collector when a connection ends while it is being opened
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]

MakeArena = Callable[..., Arena]
SEED = int(os.environ.get("FAULTS_SEED", "1"))
KILLS = int(os.environ.get("FAULTS_KILLS", "24"))


def test_killed_around_every_call_of_the_commit_block(arena: MakeArena) -> None:
    """Two workers, each killed again and again: before every step of either stage's commit, and somewhere within."""
    field = arena(SEED)
    draw = field.random
    points = [(stage, step) for step in COMMIT_STEPS for stage in ("encode", "detect")]
    faults: list[str] = []
    for (stage, step), _ in zip(cycle(points), range(KILLS), strict=False):
        soon = f":soon={draw.choice((1, 3, 10, 30))}" if len(faults) >= len(points) else ""
        faults.append(f"{stage}:{step}:{draw.randint(1, 4)}{soon}")
    draw.shuffle(faults)
    queue = list(faults)
    field.produce(3_000)
    field.load(500)
    for instance in ("a", "b"):
        field.start(instance, queue.pop())
    killed = 0
    deadline_s = time.monotonic() + 10 * KILLS
    while killed < KILLS:
        for instance, process in list(field.workers.items()):
            if process.is_alive():
                continue
            code = field.join(instance)
            assert code == -signal.SIGKILL, f"{instance} ended with {code}:\n{field.tail(instance)}"
            killed += 1
            field.start(instance, queue.pop() if queue else "")
        time.sleep(0.05)
        assert time.monotonic() < deadline_s, f"{killed} of {KILLS} kills; left: {queue}\n{field.tail('a')}"
    committed = field.reckon()
    assert {orjson.loads(r.value or b"")["reason"] for r in committed.rejects} >= {"not_json", "no_features", "empty"}


def test_three_workers_join_leave_and_die_while_the_input_grows_and_the_state_is_compacted(arena: MakeArena) -> None:
    field = arena(SEED + 1)
    draw, topics = field.random, field.settings.topics
    compacting = ConfigResource(ConfigResource.Type.TOPIC, topics.state, incremental_configs=[
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in (("segment.ms", "1000"), ("min.cleanable.dirty.ratio", "0.001"))
    ])  # fmt: skip
    field.admin.incremental_alter_configs([compacting])[compacting].result()
    field.load(800)
    field.start("a")
    names = ("a", "b", "c")
    for turn in range(20):
        if turn == 8:
            field.admin.create_partitions([NewPartitions(topics.predictions, 5)])[topics.predictions].result()
        instance = draw.choice(names)
        if instance not in field.workers:
            field.start(instance)
        elif draw.random() < 0.5:
            field.kill(instance)
        else:
            field.signal(instance, signal.SIGTERM)
            assert field.join(instance) in (0, -signal.SIGTERM), field.tail(instance)
        time.sleep(draw.choice((0.3, 1.0, 2.0, 3.0)))
    for instance in names:
        if instance not in field.workers:
            field.start(instance)
    committed = field.reckon()
    assert {record.partition for record in field.read(topics.predictions)} == set(range(5))
    assert len(committed.state) < sum(field.ends(topics.state).values()) / 2, "the state has been compacted"


def test_a_worker_stopped_for_two_sessions_and_continued_does_no_harm(arena: MakeArena) -> None:
    field = arena(SEED + 2)
    field.produce(3_000)
    field.start("a")
    field.start("b")
    field.load(500)
    field.await_log("b", "partitions")
    time.sleep(2.0)
    for _ in range(2):
        field.signal("a", signal.SIGSTOP)
        time.sleep(2 * SESSION_S)
        field.signal("a", signal.SIGCONT)
        time.sleep(2.0)
        if not field.workers["a"].is_alive():  # fenced: the supervisor starts it again
            assert field.join("a") == Fenced.exit_code, field.tail("a")
            field.start("a")
    field.reckon()


@pytest.mark.parametrize("step", ["send", "commit"])
def test_a_commit_that_hangs_past_the_poll_interval_does_no_harm(arena: MakeArena, step: str) -> None:
    """Thirteen seconds: longer than max_poll_interval_ms and than the transaction may last."""
    field = arena(SEED + 3)
    field.produce(2_000)
    field.start("a", f"detect:{step}:3:sleep=13")
    field.start("b")
    field.load(300)
    field.await_log("a", "goes on")
    time.sleep(2.0)
    if not field.workers["a"].is_alive():
        assert field.join("a") in (Fenced.exit_code, 7), field.tail("a")
        field.start("a")
    field.reckon()


def test_codes_with_another_number_of_partitions_are_refused(arena: MakeArena) -> None:
    field = arena(SEED)
    other = field.write_config("other.yaml", topics={"partitions": 8})
    field.start("a", config=other)
    assert field.join("a") == TopicMismatch.exit_code
    assert "has 4 partitions, topics.partitions says 8" in field.log_of("a")


def test_retention_that_went_past_the_group_is_told_and_survived(arena: MakeArena) -> None:
    """Input and codes are deleted while nobody works; what is left is worked on, and the log says what is lost."""
    field = arena(SEED)
    topics = field.settings.topics
    field.produce(2_000)
    field.start("a")
    field.await_caught_up()
    field.stop()
    field.produce(1_500)
    field.start("a", stage="encode")
    await_(lambda: field.committed("encode", topics.predictions) == field.ends(topics.predictions), "all is encoded")
    field.stop()
    field.produce(1_500)
    for topic in (topics.predictions, topics.codes):
        before = [ForeignPartition(topic, at.partition, end - 3) for at, end in field.ends(topic).items()]
        for deleted in field.admin.delete_records(before).values():
            deleted.result()
    field.start("a")
    field.await_caught_up()
    field.produce(1_000)
    field.await_caught_up()
    assert field.stop() == {"a": 0}, field.tail("a")
    for topic in (topics.predictions, topics.codes):
        gaps = [line for line in field.log_of("a").splitlines() if "gap" in line and topic in line]
        assert len(gaps) >= 3, field.tail("a")
