"""What the long runs look at every second: memory and threads of the workers, and transactions that stay open."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from confluent_kafka import IsolationLevel, KafkaException
from confluent_kafka import TopicPartition as ForeignPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from stream_monitor.broker.protocol import TopicPartition
from tests.faults.arena import Arena

MIB: Final = 1024 * 1024


@dataclass(slots=True)
class Life:
    """One process from its start to its end: seconds of age, MiB of resident memory and threads, a sample a second."""

    instance: str
    started_s: float
    ages_s: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def growth_mib(self, warm_s: float = 60.0) -> float:
        """Median memory of the last third of its time after the warm-up, less that of the first third."""
        warm = [rss for age, rss in zip(self.ages_s, self.rss_mib, strict=True) if age >= warm_s]
        third = len(warm) // 3
        return statistics.median(warm[-third:]) - statistics.median(warm[:third]) if third else 0.0

    def thread_growth(self, warm_s: float = 60.0) -> float:
        """As `growth_mib`, of the number of threads."""
        warm = [count for age, count in zip(self.ages_s, self.threads, strict=True) if age >= warm_s]
        third = len(warm) // 3
        return statistics.median(warm[-third:]) - statistics.median(warm[:third]) if third else 0.0


class Gauges(threading.Thread):
    """Samples in the background until stopped."""

    def __init__(self, field: Arena) -> None:
        super().__init__(name="gauges", daemon=True)
        self.lives: dict[int, Life] = {}
        self.open_s = 0.0
        """The longest time that a read-committed reader of codes, state or alerts was held back without a break."""
        self._field = field
        self._admin = AdminClient({"bootstrap.servers": field.address, "socket.timeout.ms": 3000})
        self._stop_asked = threading.Event()
        self._held: dict[TopicPartition, tuple[int, float]] = {}
        topics = field.settings.topics
        self._watched = [at for topic in (topics.codes, topics.state, topics.alerts) for at in field.partitions(topic)]

    def run(self) -> None:
        while not self._stop_asked.wait(1.0):
            for instance, process in list(self._field.workers.items()):
                if process.pid is not None:
                    self._sample(instance, process.pid)
            try:
                self._look_for_open_transactions()
            except (KafkaException, TimeoutError):  # nobody can be kept waiting by a broker that is not there
                self._held.clear()

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(30.0)

    def long_lives(self, least_s: float) -> list[Life]:
        return [life for life in self.lives.values() if life.ages_s and life.ages_s[-1] >= least_s]

    def _sample(self, instance: str, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmRSS" not in values:  # a zombie
            return
        life = self.lives.setdefault(pid, Life(instance, time.monotonic()))
        life.ages_s.append(time.monotonic() - life.started_s)
        life.rss_mib.append(int(values["VmRSS"].split()[0]) / 1024)
        life.threads.append(int(values["Threads"]))

    def _look_for_open_transactions(self) -> None:
        """A partition's last stable offset that stands still below its end: a transaction is open there."""
        stable, ends = (self._offsets(committed=committed) for committed in (True, False))
        now_s = time.monotonic()
        for at, offset in stable.items():
            before = self._held.get(at)
            if offset >= ends.get(at, offset) or before is None or before[0] != offset:
                self._held[at] = (offset, now_s)
            else:
                self.open_s = max(self.open_s, now_s - before[1])

    def _offsets(self, *, committed: bool) -> dict[TopicPartition, int]:
        asked = {ForeignPartition(*at): OffsetSpec.latest() for at in self._watched}
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        found = self._admin.list_offsets(asked, isolation_level=level, request_timeout=3)
        return {TopicPartition(at.topic, at.partition): future.result().offset for at, future in found.items()}
