"""Half an hour of load, ten million events, and a fault a minute: nothing lost, nothing twice, nothing that grows."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from scripts.kafka_node import KafkaNode
from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.errors import BrokerUnavailable, Fenced, OutcomeUnknown
from tests.faults.arena import SESSION_S, Arena, await_
from tests.faults.conftest import MakeArena
from tests.faults.follower import Ends, Tally, follow
from tests.faults.gauges import Gauges
from tests.faults.load import EVENTS, Load, written_rows
from tests.faults.oracle import Found, found_in, rejected_rows
from tests.faults.proxy import Weather
from tests.faults.results import Report, listed
from tests.faults.wire import Wire

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.long,
    # kafka-python leaves sockets to the garbage collector when a connection ends while it is being opened
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]
SEED = int(os.environ.get("FAULTS_SEED", "1")) + 300
MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
EVENTS_PER_S = float(os.environ.get("SOAK_EVENTS_PER_S", "5800"))
FAULT_S = float(os.environ.get("SOAK_FAULT_S", "60"))
MOST_OPEN_S = 40.0
MOST_GROWTH_MIB = 40.0
"""Over a life of many minutes; numpy's and the client's own pools breathe by some tens."""
WARM_S, LIFE_S = 180.0, 480.0
"""Memory grows while nothing has been behind yet: with the first backlogs it rises to what those took, up to twice a
connection's worth where one follows another, and stays there (steady load: flat from the first half minute on)."""
PATIENCE_S = 420.0


class Soak:
    """Three workers, of which the third comes and goes, and what befalls them."""

    def __init__(self, field: Arena, wire: Wire, seed: int) -> None:
        self._field = field
        self._wire = wire
        self._draw = random.Random(seed)
        self.done: Counter[str] = Counter()
        self._faults: dict[str, Callable[[], None]] = {
            "kill −9": self._kill,
            "worker stopped for two sessions": self._freeze,
            "leave": self._leave,
            "join": self._join,
            "broker kill −9": self._bounce,
            "latency": lambda: self._weather(20.0, Weather(latency_s=self._draw.choice((0.05, 0.2)))),
            "resets": self._resets,
            "black hole": lambda: self._weather(self._draw.choice((3.0, 10.0)), Weather(black_hole=True)),
            "commit reply lost": lambda: self._weather(10.0, Weather(lose_end_txn=1)),
            "commit reply cut off": lambda: self._weather(10.0, Weather(cut_end_txn=2)),
            "commit reply late": lambda: self._weather(10.0, Weather(delay_end_txn_s=3.0)),
        }

    def plan(self) -> Iterator[str]:
        """Every kind in a drawn order, again and again."""
        while True:
            kinds = list(self._faults)
            self._draw.shuffle(kinds)
            yield from kinds

    def strike(self, kind: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {kind}", flush=True)
        self._faults[kind]()
        self.done[kind] += 1

    def _kill(self) -> None:
        self._field.kill("b")
        self._field.work_for(self._draw.choice((0.0, 1.0, 8.0)))
        self._field.start("b")

    def _freeze(self) -> None:
        self._field.signal("b", signal.SIGSTOP)
        time.sleep(2 * SESSION_S)
        self._field.signal("b", signal.SIGCONT)

    def _leave(self) -> None:
        if "c" in self._field.workers:
            self._field.stop_one("c")

    def _join(self) -> None:
        if "c" in self._field.workers:
            self._leave()
        self._field.start("c")

    def _bounce(self) -> None:
        self._wire.node.kill()
        time.sleep(self._draw.choice((0.0, 5.0)))
        self._wire.node.start()

    def _resets(self) -> None:
        for _ in range(10):
            self._wire.proxy.reset()
            time.sleep(0.5)

    def _weather(self, lasts_s: float, weather: Weather) -> None:
        self._wire.proxy.weather = weather
        self._field.work_for(lasts_s)
        self._wire.proxy.weather = Weather()


def test_a_soak(kafka: KafkaNode, make_arena: MakeArena, tmp_path: Path, report: Report) -> None:
    assert kafka.is_running  # asked for first: it decides whether there is a Kafka here at all
    wire = Wire(tmp_path / "wire")
    wire.node.start()
    try:
        _soak(make_arena([wire.node.address], SEED, workers_at=[wire.proxy.address], **soak_settings()), wire, report)
    finally:
        wire.close()


def soak_settings() -> dict[str, dict[str, object]]:
    """Records hold a hundred events each: fewer of them at a time. What waits for labels reaches its bound within the
    first minute, so that memory that grows later is a leak."""
    return {
        "labels": {"max_waiting": 20_000},
        "kafka": {"max_poll_records": 200},
        "worker": {"commit_interval_s": 0.5, "max_transaction_bytes": 4_000_000, "state_bytes_per_s": 1_000_000},
    }


def _soak(field: Arena, wire: Wire, report: Report) -> None:
    field.restart_on = frozenset({Fenced.exit_code, OutcomeUnknown.exit_code})
    topics = field.settings.topics
    connect = partial(KafkaBroker, KafkaSettings((wire.node.address,), request_timeout_ms=60_000))
    context = get_context("forkserver")
    orders, theirs = context.Pipe()
    oracle = context.Process(target=follow, args=(str(field.config), connect, theirs), daemon=True)
    oracle.start()
    theirs.close()  # so that its end is noticed
    gauges = Gauges(field)
    load = Load(wire.node.address, topics.predictions, EVENTS_PER_S / EVENTS, SEED, labels=topics.labels)
    soak = Soak(field, wire, SEED)
    for instance in ("a", "b", "c"):
        field.start(instance)
    field.work_for(5.0)
    gauges.start()
    load.start()
    started_s, faults = time.monotonic(), soak.plan()
    due_s = started_s + FAULT_S
    while time.monotonic() - started_s < MINUTES * 60 - FAULT_S / 2:
        field.work_for(max(0.0, min(due_s, started_s + MINUTES * 60) - time.monotonic()))
        due_s += FAULT_S
        soak.strike(next(faults))
    field.work_for(max(0.0, started_s + MINUTES * 60 - time.monotonic()))
    load.stop()
    loaded_s = time.monotonic() - started_s
    await_(lambda: _caught_up(field, orders), "the workers catch up", PATIENCE_S, field.tails)
    behind_s = time.monotonic() - started_s - loaded_s
    field.await_truth()
    field.work_for(2.0)
    gauges.stop()
    assert set(field.stop().values()) <= {0}
    ends = field.input_ends()
    assert field.encoded() == ends, "offsets are where the positions were"

    orders.send(field.ends(topics.codes))
    assert orders.poll(PATIENCE_S), "the oracle does not answer"
    expected, coded = orders.recv()
    oracle.join(30.0)
    sums = compare(field, ends, expected, coded)

    assert gauges.open_s < MOST_OPEN_S
    lives = gauges.long_lives(LIFE_S)
    growths = [life.growth_mib(WARM_S) for life in lives]
    assert lives or MINUTES < 10, f"no worker lived for {LIFE_S:.0f} s"
    assert max(growths, default=0.0) < MOST_GROWTH_MIB, growths
    assert max((life.thread_growth() for life in lives), default=0) <= 0, [life.threads[-1] for life in lives]
    everyone = gauges.lives.values()
    most_mib, most_threads = (
        max(max(each) for each in samples)
        for samples in ([life.rss_mib for life in everyone], [life.threads for life in everyone])
    )
    longest = max((life.ages_s[-1] for life in lives), default=0.0) / 60
    report(
        f"{MINUTES:g} minutes, {EVENTS_PER_S:,.0f} events a second; {listed(soak.done)}",
        more=f"{sums}; caught up {behind_s:.0f} s after the load; no transaction open for more "
        f"than {gauges.open_s:.0f} s; memory at most {most_mib:.0f} MiB, grown by {max(growths, default=0.0):.0f} "
        f"MiB at most in {len(lives)} lives of {LIFE_S / 60:.0f} to {longest:.0f} minutes; at most {most_threads} "
        f"threads; {field.ends_listed()}",
    )


def compare(field: Arena, ends: Ends, expected: Found, coded: Tally) -> str:
    """Everything that was written against the input below `ends` and against the oracle; how much it was."""
    topics = field.settings.topics
    valid, bad = written_rows(field.address, ends, topics.labels)
    rejected = Tally()
    for (partition, offset, index), count in rejected_rows(field.settings, field.read(topics.rejects)).items():
        for _ in range(count):
            rejected.add_row(partition, offset, index)
    alerts, states, references = (field.read(name) for name in (topics.alerts, topics.state, topics.references))
    ours = found_in(field.settings, alerts, states, references)
    assert coded.against(valid) == (0, 0), "events lost, events twice"
    assert rejected.against(bad) == (0, 0), "rejects lost, rejects twice"
    assert ours.alerts == expected.alerts
    assert ours.states.keys() == expected.states.keys()
    assert [key for key, state in ours.states.items() if state != expected.states[key]] == []
    assert ours.alert_count > 0
    counted = f"{coded.total:,} events, {rejected.total:,} rejects, {ours.alert_count:,} alerts"
    return f"{counted}: none lost, none twice, {len(ours.states)} states equal"


def _caught_up(field: Arena, orders: object) -> bool:
    field.tend()
    topics = field.settings.topics
    try:
        ends, encoded = field.input_ends(), field.encoded()
        if any((encoded[at] or 0) < end for at, end in ends.items()):
            return False
        detected = field.committed("detect", topics.codes)
    except BrokerUnavailable:
        return False
    orders.send("last")  # type: ignore[attr-defined]
    last = orders.recv()  # type: ignore[attr-defined]
    return bool(last) and all((detected[at] or 0) > offset for at, offset in last.items())
