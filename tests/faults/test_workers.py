"""Worker processes killed, stopped, hung and shuffled under load on a real Kafka: nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal
import time
from itertools import cycle

import orjson
import pytest
from confluent_kafka import TopicPartition as ForeignPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions

from scripts.kafka_node import KafkaNode
from stream_monitor.broker.protocol import COMMIT_STEPS
from stream_monitor.errors import Fenced, TopicMismatch
from tests.faults.arena import SESSION_S, await_
from tests.faults.conftest import MakeArena
from tests.faults.results import Report

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    # kafka-python leaves sockets to the garbage collector when a connection ends while it is being opened
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]

SEED = int(os.environ.get("FAULTS_SEED", "1"))
KILLS = int(os.environ.get("FAULTS_KILLS", "24"))


@pytest.mark.parametrize("kills", [KILLS, pytest.param(50, marks=pytest.mark.long)])
def test_killed_around_every_call_of_the_commit_block(arena: MakeArena, report: Report, kills: int) -> None:
    """Two workers, each killed again and again: before every step of either stage's commit, and somewhere within."""
    field = arena(SEED + kills)
    draw = field.random
    points = [(stage, step) for step in COMMIT_STEPS for stage in ("encode", "detect")]
    faults: list[str] = []
    for (stage, step), _ in zip(cycle(points), range(kills), strict=False):
        soon = f":soon={draw.choice((1, 3, 10, 30))}" if len(faults) >= len(points) else ""
        faults.append(f"{stage}:{step}:{draw.randint(1, 4)}{soon}")
    draw.shuffle(faults)
    queue = list(faults)
    field.produce(3_000)
    field.load(500)
    for instance in ("a", "b"):
        field.start(instance, queue.pop())
    killed = 0
    deadline_s = time.monotonic() + 10 * kills
    while killed < kills:
        for instance, process in list(field.workers.items()):
            if process.is_alive():
                continue
            code = field.join(instance)
            assert code == -signal.SIGKILL, f"{instance} ended with {code}:\n{field.tail(instance)}"
            killed += 1
            field.start(instance, queue.pop() if queue else "")
        time.sleep(0.05)
        assert time.monotonic() < deadline_s, f"{killed} of {kills} kills; left: {queue}\n{field.tail('a')}"
    committed = field.reckon()
    assert {orjson.loads(r.value or b"")["reason"] for r in committed.rejects} >= {"not_json", "no_features", "empty"}
    report(f"{kills} × kill −9 of one of two workers", committed)


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
            assert field.join("a") in (Fenced.exit_code, 7), field.tail("a")
            field.start("a")
    field.reckon()


@pytest.mark.parametrize("step", ["begin", "send", "commit"])
def test_a_pause_past_the_poll_interval_does_no_harm(arena: MakeArena, step: str) -> None:
    """Thirteen seconds: longer than max_poll_interval_ms and than a transaction may last; before one, and within."""
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


def test_a_rolling_restart_of_static_members_causes_no_rebalance(arena: MakeArena, kafka: KafkaNode) -> None:
    """Three workers, one after the other told to stop and started again; the broker's log is asked what it did."""
    field = arena(SEED + 4, kafka={"session_timeout_ms": 20_000})
    field.load(300)
    names = ("a", "b", "c")
    for instance in names:
        field.start(instance)
        field.await_log(instance, "partitions")
    groups = [f"{field.name}-{stage}" for stage in ("encode", "detect")]

    def rebalances() -> list[str]:
        lines = kafka.log_path.read_text(errors="replace").splitlines()
        return [line for line in lines if "reparing to rebalance group" in line and any(g in line for g in groups)]

    def settled() -> bool:
        count = len(rebalances())
        time.sleep(3.0)
        return len(rebalances()) == count > 0

    await_(settled, "the groups settle")
    before = rebalances()
    moves = {instance: field.log_of(instance).count("given_up") for instance in names}
    for instance in names:
        field.signal(instance, signal.SIGTERM)
        assert field.join(instance) == 0, field.tail(instance)
        field.start(instance)
        started = moves[instance] + 2  # each stage is given what it had
        field.await_log(instance, "given_up", times=started)
        moves[instance] = started
    time.sleep(3.0)
    assert rebalances() == before
    assert {instance: field.log_of(instance).count("given_up") for instance in names} == moves, "nothing moved"
    field.reckon()


@pytest.mark.long
def test_a_partition_that_nobody_owns_is_found_and_read(arena: MakeArena, report: Report) -> None:
    """A static member dies when it has to give partitions up, and is back before its session ends: the group counts
    itself stable, what was to move has no owner. The members notice, and ask for a rebalance."""
    field = arena(SEED + 5, kafka={"session_timeout_ms": 20_000})
    field.load(300)
    field.start("a", "encode:revoked:1")
    field.await_log("a", "stage=encode")
    time.sleep(2.0)
    field.start("b")
    assert field.join("a") == -signal.SIGKILL
    field.start("a")
    await_(lambda: any("that nobody reads" in field.log_of(instance) for instance in field.workers),
           "the orphan is noticed", on_failure=field.tails)  # fmt: skip
    report("killed while giving up partitions, back within its session", field.reckon(),
           "the orphan was noticed, and read after a rebalance")  # fmt: skip


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
