"""A world of up to three workers, drawn from a seed: what is written, who steps when, and what goes wrong.

Nothing but the seed decides, so a schedule that fails replays exactly.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from stream_monitor import restoring, wire
from stream_monitor.book import ReferenceBook
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Message
from stream_monitor.config import Settings
from stream_monitor.errors import BrokerUnavailable, Fenced, OutcomeUnknown
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.ordering import is_tick
from stream_monitor.publish import publish
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.stream import Stream
from stream_monitor.streams import RELATIONS_SINCE, StreamFactory
from stream_monitor.topics import specs
from stream_monitor.worker import STAGES, StageName, Worker
from tests.faults.oracle import Committed, RowId, differences
from tests.unit.chaos import Chaos, ChaosBroker, Killed

START_MS: Final = 1_700_000_000_000
STREAMS: Final = (("m", "1"), ("m", "2"), ("n", ""), ("w", ""))
"""m and n have references, w warms up: in the long schedules it learns one."""
SHORT: Final = (0.4, 0.2, 0.3, 0.1)
LONG: Final = (0.1, 0.0, 0.1, 0.8)
WARMUP: Final = 100
POISON: Final = (
    b'{"model":',
    b"[]",
    b"null",
    b'{"model":"m"}',
    b'{"model":"m","features":[1]}',
    b"\xff\xfe",
    b"7",
    b'{"model":"m","time":"2999-01-01","features":{"x":1}}',
)
BAD_LABELS: Final = (
    b"{",
    b'{"model":"m","label":1}',
    b'{"model":"m","id":"7"}',
    b'{"id":"7","label":1}',
    b"null",
    b'{"model":"m","id":"7","label":1,"time":"2999-01-01"}',
)
RATES: Final = (0.0, 0.01, 0.02, 0.04)
"""Faults a call; a commit is struck more often."""
BUDGETS: Final = (3_000, 20_000, 1_000_000)
"""Bytes of state a second; a stream has some 10,000."""
NAMES: Final = ("a", "b", "c")
Release = tuple[int, int | None]
RELEASES: Final[tuple[Release, ...]] = ((wire.OLDEST, wire.OLDEST), (wire.NEWEST, wire.OLDEST), (wire.NEWEST, None))
"""Of a rolling upgrade, in order: the newest wire version that a worker reads, and `worker.wire_version`."""


@cache
def references() -> tuple[Reference, ...]:
    """Of m (all versions), and of n, which has segments."""
    values = np.random.default_rng(7).normal(size=1_000).tolist()
    rows = [Row("", "", "", START_MS + i, {"x": x}, None, None, None, 0, i, 0) for i, x in enumerate(values)]
    parts = [msgspec.structs.replace(row, features=row.features | {"g": "aab"[i % 3]}) for i, row in enumerate(rows)]
    plain = FitOptions(season=Season.NONE, ordered=True)
    by_g = replace(plain, segment_by=("g",), segment_rows=100)
    return fit(rows, StreamKey("m"), plain), fit(parts, StreamKey("n"), by_g)


@cache
def _warm() -> tuple[Stream, ...]:
    """A stream of every reference, kept, because their tables last as long as somebody uses them."""
    streams = []
    for reference in references():
        stream = StreamFactory(settings()).stream(reference.stream)
        stream.watch(ReferenceBook.entry(reference, 1))
        for number in range(len(reference.parts)):
            assert stream.segments is not None
            stream.segments.monitor(number)
        streams.append(stream)
    return tuple(streams)


@cache
def settings(state_bytes_per_s: int = 1_000_000, wire_version: int | None = None) -> Settings:
    """What differs is the save budget, how much is unsaved when things go wrong, and the release (see `RELEASES`)."""
    return Settings.model_validate(
        {"kafka": {"bootstrap_servers": ["127.0.0.1:1"]}, "instance": "a",
         "topics": {"partitions": 2, "labels": "labels"}, "labels": {"max_waiting": 1_000, "horizon_hours": 0.005},
         "worker": {"commit_interval_s": 1.0, "state_bytes_per_s": state_bytes_per_s, "max_codes_lag": 60,
                    "wire_version": wire_version},
         "detection": {"budget_events": 10_000, "warmup_events": WARMUP}}
    )  # fmt: skip


@dataclass(slots=True)
class Process:
    """A worker process; `worker` None while it cannot reach the broker."""

    instance: str
    stages: frozenset[StageName]
    chaos: Chaos
    broker: ChaosBroker
    settings: Settings
    worker: Worker | None = None
    paused: int = 0
    release: Release = RELEASES[-1]


@dataclass(slots=True)
class Simulation:
    """One schedule; `run` gives what is wrong, and `happened` what was done."""

    seed: int
    releases: tuple[Release, ...] = RELEASES
    """What an upgrade goes through; one schedule in four is one, and each with releases of its own."""
    happened: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    alerts: int = 0
    _random: random.Random = field(default_factory=random.Random)
    _now_s: float = 1_000.0
    _alive: list[Process] = field(default_factory=list)
    _stepping: set[int] = field(default_factory=set)
    _written: int = 0
    _events_made: int = 0
    _unlabelled: list[tuple[str, str, float]] = field(default_factory=list)
    _broker: MemoryBroker = field(init=False)
    _budget: int = field(init=False)
    _rate: float = 0.0
    _stream_rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    _shares: tuple[float, ...] = SHORT
    _step_of_upgrade: int = 0

    def run(self) -> list[str]:
        _warm()
        self._random.seed(self.seed)
        draw = self._random
        self._rate = draw.choice(RATES)
        self._broker = MemoryBroker(clock_ms=self._clock_ms, max_poll_records=draw.choice((7, 50, 200, 10_000)))
        self._budget = draw.choice(BUDGETS)
        restoring.STEP_BYTES = draw.choice((1, 15_000, 1_000_000))
        base = settings()
        upgrades = self.releases is not RELEASES or draw.random() < 0.25
        self._step_of_upgrade = 0 if upgrades else len(self.releases) - 1
        self._broker.create_topics(specs(base, predictions=draw.choice((1, 2, 3))))
        publish(self._broker, base.topics.references, "setup", references())
        total, self._shares = (180, LONG) if self.seed % 10 == 0 else (40, SHORT)
        if draw.random() < 0.3:
            self._write(draw.randint(10, 60))
        self._start("a", STAGES)
        if self._step_of_upgrade == 0 and len(self.releases) > 1:
            self._start("b", STAGES)
        for _ in range(draw.randint(8, 24)):
            if self._written < total:
                self._write(draw.randint(0, total // 6))
            self._act()
            self._upgrade()
            for process in draw.sample(self._alive, len(self._alive)):
                self._step(process)
            self._now_s += draw.choice((0.1, 0.3, 0.6, 1.1))
        return self._finish()

    # ---- the input ----

    def _clock_ms(self) -> int:
        return START_MS + int(self._now_s * 1000)

    def _write(self, count: int) -> None:
        """Events of random streams on random partitions, some late, some of them poison."""
        draw, topic = self._random, settings().topics.predictions
        partitions = len(self._broker.partitions([topic]))
        messages = []
        for i in range(count):
            late_ms = draw.choice((0, 0, 0, 50, 3_000))
            stamp_ms = self._clock_ms() + i - late_ms
            value = draw.choice(POISON) if draw.random() < 0.02 else orjson.dumps(self._events())
            messages.append(Message(topic, b"k", value, draw.randrange(partitions), timestamp_ms=stamp_ms))
        self._broker.append(messages)
        self._written += count
        if draw.random() < 0.7:
            self._write_labels(draw.randint(0, count))

    def _write_labels(self, count: int) -> None:
        """Labels of events long ago, just now, or still to come; some twice, some corrected, some poison."""
        draw, topic = self._random, settings().topics.labels
        assert topic is not None
        partitions = len(self._broker.partitions([topic]))
        messages = []
        for _ in range(min(count, len(self._unlabelled))):
            identity, model, prediction = draw.choice(self._unlabelled)
            kind = draw.random()
            if kind < 0.05:
                identity = str(int(identity) + draw.randint(1, 30))  # of an event not written yet
            label = int((prediction > 0.5) != (draw.random() < 0.1))
            value = orjson.dumps({"id": identity, "model": model, "label": label})
            if draw.random() < 0.03:
                value = draw.choice(BAD_LABELS)
            if kind >= 0.15:  # else it may get another one
                self._unlabelled.remove((identity, model, prediction))
            messages.append(Message(topic, b"k", value, draw.randrange(partitions), timestamp_ms=self._clock_ms()))
        self._broker.append(messages)

    def _events(self) -> dict[str, Any] | list[dict[str, Any]]:
        if self._random.random() < 0.02:
            return [self._event(), self._event()]
        return self._event()

    def _event(self) -> dict[str, Any]:
        """A stream drifts by four standard deviations after 6 rows, and is back after 15; w later."""
        draw = self._random
        (stream,) = draw.choices(STREAMS, self._shares)
        self._stream_rows[stream] += 1
        model, version = stream
        begin = WARMUP + 6 if model == "w" else 6
        drift = 4.0 if begin <= self._stream_rows[stream] < begin + 9 else 0.0
        self._events_made += 1
        features: dict[str, Any] = {"x": draw.gauss(drift, 1.0)} | ({"g": draw.choice("aab")} if model == "n" else {})
        event: dict[str, Any] = {"model": model, "version": version, "features": features}
        event |= {"id": str(self._events_made), "prediction": draw.random()}
        if draw.random() < 0.1:
            event["label"] = draw.randint(0, 1)
        self._unlabelled.append((event["id"], model, event["prediction"]))
        return event

    # ---- what happens ----

    def _act(self) -> None:
        draw = self._random
        match draw.choices(
            ("nothing", "join", "leave", "kill", "expel", "pause", "namesake", "grow", "compact", "wait"),
            (40, 12, 5, 6, 5, 6, 3, 2, 5, 6),
        )[0]:
            case "join":
                absent = [name for name in NAMES if name not in {each.instance for each in self._alive}]
                if absent:
                    stages = draw.choice((STAGES, STAGES, STAGES, frozenset({"encode"}), frozenset({"detect"})))
                    self._start(draw.choice(absent), stages)  # type: ignore[arg-type]
            case "leave" if self._alive:
                self._leave(draw.choice(self._alive))
            case "kill" if self._alive:
                self._kill(draw.choice(self._alive), "kill")
            case "expel":
                self._expel(draw.choice(NAMES))
            case "pause" if self._alive:
                process = draw.choice(self._alive)
                process.paused = draw.randint(1, 6)
                self._note(f"{process.instance} pauses for {process.paused}")
            case "namesake" if self._alive:
                process = draw.choice(self._alive)
                self._start(process.instance, process.stages)
            case "grow":
                topic = settings().topics.predictions
                total = len(self._broker.partitions([topic])) + 1
                if total <= 4:
                    self._broker.add_partitions(topic, total)
                    self._note(f"predictions have {total} partitions")
            case "compact":
                self._broker.compact(settings().topics.state)
                self._note("state compacted")
            case "wait":
                self._now_s += draw.choice((3.0, 6.0, 12.0))

    def _upgrade(self) -> None:
        """Replace a worker by one of the next release, and go on to the one after when none is left behind."""
        draw, behind = self._random, [each for each in self._alive if each.release != self._release()]
        if behind and draw.random() < 0.3:
            old = draw.choice(behind)
            self._leave(old)
            if old not in self._alive:
                self._start(old.instance, old.stages)
        elif not behind and self._step_of_upgrade < len(self.releases) - 1 and draw.random() < 0.3:
            self._step_of_upgrade += 1
            self._note(f"next: wire versions {self._release()}")

    def _release(self) -> Release:
        return self.releases[self._step_of_upgrade]

    def _start(self, instance: str, stages: frozenset[StageName]) -> None:
        chaos = Chaos(self._random, self._rate, self._interlude)
        broker = ChaosBroker(self._broker, chaos)
        release = self._release()
        given = settings(self._budget, release[1]).model_copy(update={"instance": instance})
        process = Process(instance, stages, chaos, broker, given, release=release)
        self._alive.append(process)
        self._note(f"{instance} starts {sorted(stages)}")
        self._guarded(process, lambda: self._open(process))

    def _open(self, process: Process) -> None:
        process.worker = Worker(
            process.settings, process.broker, process.stages, clock_s=lambda: self._now_s, clock_ms=self._clock_ms
        )

    def _step(self, process: Process) -> None:
        """One round of a process, unless it is paused or gone, or (in an interlude) in the middle of one."""
        if process.paused:
            process.paused -= 1
            return
        if process not in self._alive or id(process) in self._stepping:
            return
        worker = process.worker
        self._guarded(process, lambda: self._open(process) if worker is None else worker.step(0.0))

    def _leave(self, process: Process) -> None:
        worker = process.worker
        if worker is None or id(process) in self._stepping:
            return
        self._note(f"{process.instance} leaves")
        process.chaos.left.clear()
        self._guarded(process, worker.close, leaving=True)
        if process in self._alive:
            self._alive.remove(process)

    def _guarded(self, process: Process, doing: Any, *, leaving: bool = False) -> None:
        """What `worker.run` and the supervisor make of errors."""
        before, newest = len(process.chaos.happened), wire.NEWEST
        self._stepping.add(id(process))
        wire.NEWEST = process.release[0]
        try:
            doing()
        except Killed as killed:
            self._kill(process, f"killed in {killed}")
        except (Fenced, OutcomeUnknown) as error:
            self._kill(process, f"exits: {type(error).__name__}")
        except BrokerUnavailable:
            if process.worker is not None and not leaving:
                process.worker.abandon()
            process.worker = None
            assert not process.chaos.open, "clients are left open"
        finally:
            wire.NEWEST = newest
            self._stepping.discard(id(process))
        for what in process.chaos.happened[before:]:
            self.faults[what] += 1
            self._note(f"{process.instance}: {what}")

    def _kill(self, process: Process, why: str) -> None:
        """Gone; its seats stay until they expire."""
        self._note(f"{process.instance} {why}")
        if process in self._alive:
            self._alive.remove(process)

    def _expel(self, instance: str, *stages: StageName) -> None:
        """Its session expires, be it dead or only silent."""
        for stage in stages or ("encode", "detect"):
            group = f"{settings().group}-{stage}"
            try:
                self._broker.expel(group, instance)
                self._note(f"{instance} expelled from {stage}")
            except ValueError:
                continue

    def _interlude(self) -> None:
        """The process hangs in the middle of a call: its session may expire, and the others go on."""
        if self._random.random() < 0.7:
            for name in NAMES:
                if any(each.instance == name and id(each) in self._stepping for each in self._alive):
                    self._expel(name)
        for _ in range(self._random.randint(1, 5)):
            for process in list(self._alive):
                self._step(process)
            self._now_s += 0.6

    def _note(self, what: str) -> None:
        self.happened.append(f"{self._now_s:.1f} {what}")

    # ---- the end ----

    def _finish(self) -> list[str]:
        """Let the faults end, have everything read, stop in order, and compare."""
        for process in self._alive:
            process.chaos.rate, process.paused = 0.0, 0
        self._rate = 0.0
        self._settle()
        leaving = [process for process in self._alive if process.worker is not None]
        for process in leaving:
            self._leave(process)
        problems = self._uncommitted(leaving)
        topics = settings().topics
        read = self._broker.records
        committed = Committed(
            read(topics.codes), read(topics.alerts), read(topics.state), read(topics.references), read(topics.rejects)
        )
        self.alerts = len(committed.alerts)
        valid, poison = self._input()
        return problems + differences(self._as_learned(committed), committed, valid, poison)

    def _as_learned(self, committed: Committed) -> Settings:
        """The oracle's settings: during an upgrade, the release of whoever learns a reference says what it holds."""
        book = ReferenceBook()
        for record in committed.references:
            book.apply(record.key, record.value)
        learned = [entry.reference for stream in book.streams() if (entry := book.find(stream)) and not entry.epoch]
        plain = any(reference.relations is msgspec.UNSET for reference in learned)
        return settings(wire_version=RELATIONS_SINCE - 1 if plain else None)

    def _settle(self) -> None:
        calm = 0
        for _ in range(400):
            self._bury()
            if not any(process.stages == STAGES for process in self._alive):
                self._start("d", STAGES)
            for process in list(self._alive):
                self._step(process)
            self._now_s += 3.0
            workers = [process.worker for process in self._alive]
            rested = all(worker is not None and worker.idle for worker in workers) and not self._behind()
            calm = calm + 1 if rested else 0
            if calm == 3:
                return
        raise AssertionError("not settled after 400 rounds")

    def _bury(self) -> None:
        """Sessions of the dead expire."""
        for stage in STAGES:
            for name in sorted({*NAMES, "d"} - {each.instance for each in self._alive if stage in each.stages}):
                self._expel(name, stage)

    def _behind(self) -> bool:
        topics, group = settings().topics, settings().group
        partitions = self._broker.partitions([topics.predictions, topics.labels or ""])
        committed = self._broker.group_offsets(f"{group}-encode", partitions)
        if any((committed[each] or 0) < self._broker.log(each).end_offset for each in partitions):
            return True
        partitions = self._broker.partitions([topics.codes])
        committed = self._broker.group_offsets(f"{group}-detect", partitions)
        batches = {
            each.partition: each.offset for each in self._broker.records(topics.codes) if not is_tick(each.value)
        }
        return any((committed[each] or 0) <= batches.get(each.partition, -1) for each in partitions)

    def _uncommitted(self, processes: list[Process]) -> list[str]:
        """Partitions whose committed offset is not where their owner left."""
        problems = []
        for process in processes:
            for partition, position in process.chaos.left.items():
                stage = "detect" if partition.topic == settings().topics.codes else "encode"
                committed = self._broker.group_offsets(f"{settings().group}-{stage}", [partition])[partition]
                if committed != position:
                    problems.append(f"{process.instance} left {partition} at {position}, committed is {committed}")
        return problems

    def _input(self) -> tuple[Counter[RowId], Counter[RowId]]:
        valid: Counter[RowId] = Counter()
        poison: Counter[RowId] = Counter()
        for record in self._broker.records(settings().topics.labels or ""):
            (poison if record.value in BAD_LABELS else valid)[-1 - record.partition, record.offset, 0] += 1
        for record in self._broker.records(settings().topics.predictions):
            if record.value in POISON:
                poison[record.partition, record.offset, 0] += 1
            else:
                events = orjson.loads(record.value or b"")
                for index in range(len(events) if isinstance(events, list) else 1):
                    valid[record.partition, record.offset, index] += 1
        return valid, poison
