"""The encode stage: predictions and labels → codes. Stateless; one transaction holds codes, rejects and input offsets.

Labels are read by the same consumer and written by the same transactions, but are merged apart: a label belongs to a
prediction by its id, not by its time, and neither topic is to wait for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Final

import structlog

from stream_monitor import gaps
from stream_monitor.alignment import Alignment, note
from stream_monitor.backpressure import Backpressure, Sight
from stream_monitor.broker.protocol import Broker, Message, Polled, Probe, TopicPartition
from stream_monitor.config import Settings
from stream_monitor.encoder import EncodeCounts, Encoder
from stream_monitor.errors import TransactionAborted
from stream_monitor.feed import ReferenceFeed
from stream_monitor.lane import MAX_PENDING_RECORDS, Lane, Promises, behind_ms
from stream_monitor.merge import Merger
from stream_monitor.observe import ObserveCommit, lag_of, timed, unobserved
from stream_monitor.ordering import Tick, encode_tick
from stream_monitor.ownership import Ownership

log = structlog.get_logger()

STAGE: Final = "encode"
BUFFERED_RECORDS: Final = 20_000
"""Records of one input partition that wait for the others; a partition with more is paused."""
BUFFERED_BYTES: Final = 64 * 1024 * 1024
"""What waits in all; a partition with more than its share of it is paused."""
LEAST_BUFFER_BYTES: Final = 1024 * 1024
STANDSTILL_S: Final = 0.5
"""Between two polls: what fetches have told of the ends is old by then."""
STUCK_S: Final = 20.0
"""A partition that has more to read and has brought nothing for so long (its broker is away) is not told as behind."""
IDLE_AFTER_S: Final = 60.0
IDLE_TICK_S: Final = 5.0
"""An encoder that had no rows for `IDLE_AFTER_S`, or that holds back, says so this often."""
TICK_KEY: Final = b"tick"


@dataclass(frozen=True, slots=True)
class EncodeLevels:
    """How the stage stands now. `lag`: input partition held → records not yet read, of those whose end is known."""

    lag: dict[TopicPartition, int]
    codes_lag: int
    held_back: bool


class EncodeStage:
    """Reads predictions, merges their partitions by time, writes codes; the caller steps it."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        feed: ReferenceFeed,
        clock_ms: Callable[[], int],
        probe: Probe | None = None,
        observe_commit: ObserveCommit = unobserved,
    ) -> None:
        self.counts = EncodeCounts()
        self._clock_ms = clock_ms
        self._settings = settings
        self._broker = broker
        self._group = settings.consumer_group(STAGE)
        topics = settings.topics
        codes = [TopicPartition(topics.codes, number) for number in range(topics.partitions)]
        name = settings.transactional_id(STAGE)
        with ExitStack() as opened:
            self._producer = opened.enter_context(closing(broker.producer(name, probe=probe)))
            inputs = [topics.predictions] + ([topics.labels] if topics.labels else [])
            consumer = broker.consumer(self._group, inputs, instance=settings.instance)
            self._consumer = opened.enter_context(closing(consumer))
            # Never polled: only asked for the ends, which tell how far behind detection is.
            self._codes = broker.reader(codes)
            opened.pop_all()
        self._encoder = Encoder(settings, feed.book)
        self._ownership = Ownership(broker, self._consumer, self._group, inputs)
        self._backpressure = Backpressure(settings, broker, self._codes)
        self._rows, self._labels = (
            Lane(topic, Merger(settings.input.max_idle_ms / 1000), Alignment(settings.worker.max_codes_lag // 4))
            for topic in (topics.predictions, topics.labels or "")
        )
        self._pending_bytes = 0
        self._gaps: dict[TopicPartition, gaps.Found] = {}
        """Found since the last commit, to be told with the next one."""
        self._busy_s = 0.0
        self._paused: set[TopicPartition] = set()
        self._ends: dict[TopicPartition, int] = {}
        """As asked for, beside what fetches tell."""
        self._polled_s = 0.0
        self._reached: dict[TopicPartition, int] = {}
        """What this member has committed of the partitions that it holds: nobody else can have since."""
        self._fetched_s: dict[TopicPartition, float] = {}
        """When a partition last brought something, or was let to."""
        self._observe_commit = observe_commit
        self._last_commit_s = 0.0

    def step(self, timeout_s: float, now_s: float) -> bool:
        """Poll, apply rebalances, merge, commit when due; whether there was anything to do."""
        polled = self._consumer.poll(timeout_s)
        self._apply_rebalance(polled)
        if polled.assigned:
            self._busy_s = now_s
            self._fetched_s |= dict.fromkeys(polled.assigned, now_s)
        self._ask_after_standstill(now_s)
        for partition, records in polled.records.items():
            self._fetched_s[partition] = now_s
            self._lane(partition).merger.add(partition, records, self._clock_ms())
        # Labels first, and half of the room at most: neither backlog is to keep the other from being read.
        taken = self._take(self._labels, self._room // 2, now_s) + self._take(self._rows, self._room, now_s)
        self._look_around(now_s)
        self._regulate(now_s)
        if not self._holds:  # else nobody moves
            self._ownership.look(now_s)
        commits = self.counts.commits
        if self._due(now_s):
            self._commit(now_s)
        # Of what is buffered more may go on now, though nothing new came: a full buffer is not filled up.
        return bool(polled.records) or taken > 0 or self.counts.commits > commits

    @property
    def idle(self) -> bool:
        """Whether everything read is committed."""
        return not self._waiting and not any(self._lane(p).merger.buffered(p) for p in self._consumer.assignment())

    @property
    def _waiting(self) -> int:
        """Records read that the next transaction will take."""
        return sum(len(lane.pending) for lane in self._lanes)

    @property
    def _lanes(self) -> tuple[Lane, Lane]:
        return self._rows, self._labels

    @property
    def _holds(self) -> bool:
        """Whether it waits for detection, or for other encoders."""
        return self._backpressure.held_back or any(lane.alignment.ahead for lane in self._lanes)

    def _lane(self, partition: TopicPartition) -> Lane:
        return self._labels if partition.topic == self._settings.topics.labels else self._rows

    def _inputs(self, lane: Lane) -> set[TopicPartition]:
        """The partitions of its topic that are held."""
        return {partition for partition in self._consumer.assignment() if self._lane(partition) is lane}

    def levels(self) -> EncodeLevels:
        return EncodeLevels(lag_of(self._consumer, self._ends), self._backpressure.lag, self._holds)

    def readiness(self) -> tuple[bool, str]:
        """Whether the group counts on this member, and why not."""
        stable = self._consumer.member() is not None
        return stable, "ready" if stable else "encode: not a member of its group yet"

    def close(self, now_s: float) -> None:
        """Commit what was merged, then leave."""
        try:
            if self._waiting:
                self._commit(now_s)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave without a commit."""
        for client in (self._codes, self._consumer, self._producer):
            client.close()

    def _apply_rebalance(self, polled: Polled) -> None:
        gone = polled.revoked | polled.lost
        if gone:
            self._forget(gone)
            self._paused -= gone
            self._reached = {each: offset for each, offset in self._reached.items() if each not in gone}
            self._gaps = {partition: gap for partition, gap in self._gaps.items() if partition not in gone}
            self._pending_bytes = sum(lane.pending_bytes for lane in self._lanes)
        if polled.assigned:
            self._await(polled.assigned)
            self._start(polled.assigned)
            found = self._broker.topics([lane.topic for lane in self._lanes if lane.topic])
            for lane in self._lanes:
                lane.total = found[lane.topic].partitions if lane.topic in found else 0
        if polled.out_of_range:
            self._seek_to_kept(polled.out_of_range)
        if gone or polled.assigned:
            log.info("partitions", stage=STAGE, assigned=len(polled.assigned), given_up=len(gone),
                     held=len(self._consumer.assignment()))  # fmt: skip

    def _forget(self, partitions: Collection[TopicPartition]) -> None:
        for lane in self._lanes:
            lane.give_up(partitions)

    def _await(self, partitions: Collection[TopicPartition]) -> None:
        """Begin to merge them, each where it belongs."""
        for partition in partitions:
            self._lane(partition).merger.assign([partition])

    def _start(self, partitions: Collection[TopicPartition]) -> None:
        """Seek partitions to their committed offsets, or to where a new group starts, and read on."""
        committed = self._consumer.committed(partitions)
        fresh = [partition for partition in partitions if committed.get(partition) is None]
        bounds = self._consumer.bounds(fresh) if fresh else {}
        for partition in partitions:
            offset = committed.get(partition)
            if offset is None:
                first, end = bounds[partition]
                offset = first if self._settings.input.start == "earliest" else end
            # A broker that has just started was seen to say of a group that it had committed nothing.
            self._consumer.seek(partition, max(offset, self._reached.get(partition, offset)))
        self._consumer.resume(partitions)

    def _seek_to_kept(self, partitions: Collection[TopicPartition]) -> None:
        for partition, (first, end) in self._consumer.bounds(partitions).items():
            position = self._consumer.position(partition)
            gap = gaps.find(partition.topic, partition.partition, position, gaps.Bounds(first, end))
            log.error("gap: the stored position is not in the log any more", topic=gap.topic, partition=gap.partition,
                      position=position, goes_on_at=gap.resumed_at, lost=gap.lost)  # fmt: skip
            if gap.anew:  # else what was read is encoded, though the log has lost it
                self._await([partition])
            self._gaps[partition] = gap
            self._reached.pop(partition, None)
            self._ends.pop(partition, None)  # of another log, if it was made anew
            self._consumer.seek(partition, gap.resumed_at)
        self._consumer.resume(partitions)

    @property
    def _room(self) -> int:
        """Bytes that the next transaction still takes."""
        return self._settings.worker.max_transaction_bytes - self._pending_bytes

    def _take(self, lane: Lane, room: int, now_s: float) -> int:
        if self._backpressure.held_back:
            lane.merger.hold()
            return 0
        lagging = [partition for partition in self._inputs(lane) if self._lags(partition)]
        taken = lane.take(lagging, room, now_s)
        self._pending_bytes += taken
        return taken

    def _lags(self, partition: TopicPartition) -> bool:
        ends = [end for end in (self._consumer.end_seen(partition), self._ends.get(partition)) if end is not None]
        return not ends or self._consumer.position(partition) < max(ends)

    def _is_behind(self, partition: TopicPartition, now_s: float) -> bool:
        """Whether there is more to come of what is on an input partition already."""
        if self._lane(partition).merger.buffered(partition) or partition in self._paused:
            return True
        return self._lags(partition) and now_s - self._fetched_s.get(partition, now_s) < STUCK_S

    def _regulate(self, now_s: float) -> None:
        """Pause partitions whose records wait in numbers, or all of them while detection is behind."""
        assigned, held_back = self._consumer.assignment(), self._backpressure.held_back
        full = {p for p in assigned if held_back or self._fill(p) > 1.0}
        if full - self._paused:
            self._consumer.pause(full - self._paused)
        relieved = {p for p in self._paused & assigned if not held_back and self._fill(p) <= 0.5}
        if relieved:
            self._consumer.resume(relieved)
            self._fetched_s |= dict.fromkeys(relieved, now_s)
        self._paused = (self._paused | full) - relieved

    def _fill(self, partition: TopicPartition) -> float:
        """How full the buffer of a partition is, by records or by bytes; from 1 on it is too full."""
        share = max(LEAST_BUFFER_BYTES, BUFFERED_BYTES // max(1, len(self._consumer.assignment())))
        merger = self._lane(partition).merger
        return max(merger.buffered(partition) / BUFFERED_RECORDS, merger.buffered_bytes(partition) / share)

    def _look_around(self, now_s: float) -> None:
        """How far detection and the other encoders are, when it is time to ask; what is written here counts at once."""
        if self._backpressure.due(now_s, held=self._holds):
            # Nothing is fetched from what is paused, and a fetch does not tell the end of a partition that was given
            # back after a lost session and has nothing new: neither end would be heard of.
            unheard = {each for each in self._consumer.assignment() if self._consumer.end_seen(each) is None}
            not_reached = {each for each in self._ends.keys() & self._consumer.assignment() if self._lags(each)}
            self._ends = {each: self._ends[each] for each in not_reached} | self._ask(self._paused | unheard)
            self._backpressure.look([self._sight(lane, now_s) for lane in self._lanes], now_s)
        self._backpressure.regulate()

    def _ask_after_standstill(self, now_s: float) -> None:
        """Fetches answer one by one: after a standstill (a first compilation, a long step of detection, a paused
        machine) a partition that was at its end when last heard of is behind, and its rows are to be waited for."""
        stood_s, self._polled_s = now_s - self._polled_s, now_s
        if stood_s >= STANDSTILL_S:
            self._ends |= self._ask({each for each in self._consumer.assignment() if not self._lags(each)})

    def _ask(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Their ends, as the broker knows them now."""
        return {partition: end for partition, (_, end) in self._consumer.bounds(partitions).items()}

    def _sight(self, lane: Lane, now_s: float) -> Sight:
        others = lane.others(self._inputs(lane)) if self._consumer.assignment() else set()
        return Sight(lane.alignment, others, behind_ms(self._promises(lane, now_s)))

    def _due(self, now_s: float) -> bool:
        """When there is enough, or enough time has passed; without rows too: other encoders' rows wait for the tick."""
        worker = self._settings.worker
        if not self._waiting:
            idle = now_s - self._busy_s > IDLE_AFTER_S
            wait_s = IDLE_TICK_S if idle or self._holds else worker.commit_interval_s
            return bool(self._consumer.assignment()) and now_s - self._last_commit_s >= wait_s
        self._busy_s = now_s
        full = self._waiting >= MAX_PENDING_RECORDS or self._pending_bytes >= worker.max_transaction_bytes
        return full or now_s - self._last_commit_s >= worker.commit_interval_s

    def _commit(self, now_s: float) -> None:
        """One transaction: codes, rejects, and the offset of every partition held (unchanged ones fence too)."""
        member = self._consumer.member()
        if member is None:
            return
        offsets = {partition: self._next_offset(partition) for partition in self._consumer.assignment()}
        now_ms, promises = self._clock_ms(), [self._promises(lane, now_s) for lane in self._lanes]
        messages: list[Message] = []
        frame = 2 * self._settings.topics.partitions  # a tick and the transaction's marker on each partition
        for lane, encode in zip(self._lanes, (self._encoder.encode, self._encoder.encode_labels), strict=True):
            lane.sort()
            made = encode(lane.pending, self.counts, now_ms)
            lane.wrote(len(made) + frame)
            messages += made
        messages += self._ticks(promises)
        notes = {partition: note(promise_ms, now_ms)
                 for each in promises for partition, (promise_ms, behind) in each.items() if behind}  # fmt: skip
        messages += self._told_gaps()
        try:
            with timed(self._observe_commit, STAGE):
                self._producer.commit(messages, offsets, member, notes)
        except TransactionAborted as error:
            self.counts.aborted += 1
            log.warning("transaction rolled back, reading again", stage=STAGE, why=str(error))
            self._rewind()
            return
        self._reached = offsets
        for lane in self._lanes:
            lane.pending = []
        self._pending_bytes = 0
        self._backpressure.wrote(len(messages) + frame // 2)
        self.counts.gaps += len(self._gaps)
        self.counts.lost_records += sum(gap.lost for gap in self._gaps.values())
        self._gaps.clear()
        self._last_commit_s = now_s
        self.counts.commits += 1

    def _told_gaps(self) -> Iterator[Message]:
        """The alerts about records that were lost, in the transaction that goes on behind them."""
        topics, source = self._settings.topics, self._settings.alerts.source
        for _, gap in sorted(self._gaps.items()):
            alert = gaps.alert_of(gap, self._clock_ms())
            yield Message(topics.alerts, alert.key(), alert.to_json(), headers=alert.headers(source))

    def _promises(self, lane: Lane, now_s: float) -> Promises:
        now_ms = self._clock_ms()
        return {
            partition: (
                lane.merger.promise_ms(partition, lagging=self._lags(partition), now_ms=now_ms),
                self._is_behind(partition, now_s),
            )
            for partition in self._inputs(lane)
        }

    def _ticks(self, promises: Sequence[Promises]) -> Iterator[Message]:
        """How far this encoder's partitions have come, to every codes partition, behind the rows."""
        rows, labels = (lane.told(each) for lane, each in zip(self._lanes, promises, strict=True))
        data = encode_tick(Tick(self._clock_ms(), *rows, *labels), self._settings.worker.writes_version)
        topics = self._settings.topics
        return (Message(topics.codes, TICK_KEY, data, number) for number in range(topics.partitions))

    def _next_offset(self, partition: TopicPartition) -> int:
        waiting = self._lane(partition).merger.first_offset(partition)
        return self._consumer.position(partition) if waiting is None else waiting

    def _rewind(self) -> None:
        """Forget everything uncommitted and read it again."""
        assigned = self._consumer.assignment()
        self._forget(assigned)
        self._pending_bytes = 0
        self._await(assigned)
        self._gaps.clear()  # they will be found again
        self._paused.clear()
        self._start(assigned)
