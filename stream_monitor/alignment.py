"""How far an encoder may run ahead of the others: watermark alignment, as Flink calls it. Pure.

What an encoder writes waits in detection for the rows of those that are behind (`ordering.py`), in memory, and holds
the committed offset back. So each encoder leaves a note beside its committed offsets: up to which merge time the
partition has come, while it is behind (`note`). The others read the notes, and one that is a window ahead waits until
the one furthest behind has come along. That one is never held back: of two, one always goes on. The window is bounded
in records and bytes, for what detection holds of them in memory, and in the records they become, for what it has not
committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from stream_monitor.ordering import MAX_WAIT_MS, NEVER

AHEAD_RECORDS: Final = 200_000
"""Some five seconds' work of one encoder (`benchmarks/throughput.md`): a note heard is up to 3 s old."""
AHEAD_BYTES: Final = 64 * 1024 * 1024


def note(promise_ms: int, clock_ms: int) -> str:
    """What is committed beside the offset of a partition that is behind. The clock shows that its encoder lives."""
    return f"{promise_ms} {clock_ms}"


@dataclass(slots=True)
class _Heard:
    """A note, and when it was first seen."""

    text: str
    at_s: float

    @property
    def promise_ms(self) -> int:
        """NEVER for a note that says nothing, or is not ours to read."""
        first = self.text.split(" ", 1)[0]
        return int(first) if first.removeprefix("-").isdecimal() and len(first) < 20 else NEVER


@dataclass(slots=True)
class Alignment:
    """`most_messages`: of the window, with ticks and the markers of transactions; `others_ms`: the merge time that the
    others' partitions that are behind have all come to, NEVER without one."""

    most_messages: int
    others_ms: int = NEVER
    _heard: dict[int, _Heard] = field(default_factory=dict)
    _ahead: deque[tuple[int, int, int, int]] = field(default_factory=deque)
    """Last merge time, records, bytes and messages of what was taken, as far as the others have not come there."""

    def hear(self, notes: Mapping[int, str], now_s: float) -> None:
        """The notes of the input partitions that others hold, as they are now. One that does not change for as long as
        detection waits (`MAX_WAIT_MS`) is a dead encoder's."""
        before, self._heard = self._heard, {}
        for partition, text in notes.items():
            heard = before.get(partition)
            self._heard[partition] = heard if heard is not None and heard.text == text else _Heard(text, now_s)
        living = (each.promise_ms for each in self._heard.values() if now_s - each.at_s < MAX_WAIT_MS / 1000)
        self.others_ms = min(living, default=NEVER)
        while self._ahead and self._ahead[0][0] <= self.others_ms:
            self._ahead.popleft()

    def take(self, last_ms: int, records: int, size: int) -> None:
        """So many records, of so many bytes, are taken, up to that merge time."""
        if last_ms > self.others_ms:
            self._ahead.append((last_ms, records, size, 0))

    def wrote(self, last_ms: int, messages: int) -> None:
        """What was taken up to that merge time is written, as so many messages."""
        if last_ms > self.others_ms:
            self._ahead.append((last_ms, 0, 0, messages))

    def forget(self) -> None:
        """What was taken is to be taken again."""
        self._ahead.clear()

    @property
    def ahead(self) -> bool:
        """Whether to wait for the others."""
        records, size, messages = (sum(each[at] for each in self._ahead) for at in (1, 2, 3))
        return records >= AHEAD_RECORDS or size >= AHEAD_BYTES or messages >= self.most_messages
