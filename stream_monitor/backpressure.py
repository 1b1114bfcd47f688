"""When an encoder holds back: detection is behind, or the other encoders are. Asks the broker, now and then.

The codes lag that counts is of what detection has not read, or fed and not saved: it leaves a note beside its committed
offsets. Those are held back, besides, by rows that wait for the encoder that is furthest behind, which would then hold
itself back. An encoder that is ahead of another, and behind none (of predictions or of labels), counts what waits too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import structlog

from stream_monitor.alignment import Alignment
from stream_monitor.broker.protocol import Broker, Reader, TopicPartition
from stream_monitor.config import Settings
from stream_monitor.ordering import NEVER

log = structlog.get_logger()

CHECK_S: Final = 2.0
HELD_CHECK_S: Final = 0.5


class Sight(NamedTuple):
    """An input topic as this encoder sees it: the partitions that `others` hold, and up to where its own that are
    behind have come (`own_ms`), NEVER without one."""

    alignment: Alignment
    others: Collection[TopicPartition]
    own_ms: int


class Backpressure:
    """`lag`: records of the codes that detection is behind, as last asked, and what was written since; `held_back`:
    whether it is too far."""

    def __init__(self, settings: Settings, broker: Broker, codes: Reader) -> None:
        self.lag = 0
        self.held_back = False
        self._broker = broker
        self._codes = codes
        self._encoding, self._detecting = (settings.consumer_group(stage) for stage in ("encode", "detect"))
        self._most = settings.worker.max_codes_lag
        self._looked_s = 0.0

    def due(self, now_s: float, *, held: bool) -> bool:
        return now_s - self._looked_s >= (HELD_CHECK_S if held else CHECK_S)

    def look(self, sights: Sequence[Sight], now_s: float) -> None:
        """Ask how far detection and the other encoders are."""
        self._looked_s = now_s
        others = [partition for sight in sights for partition in sight.others]
        notes = self._broker.group_notes(self._encoding, others) if others else {}
        for alignment, theirs, _ in sights:
            alignment.hear({each.partition: notes[each] for each in theirs}, now_s)
        ahead = any(alignment.others_ms < own_ms for alignment, _, own_ms in sights)
        furthest_behind = any(own_ms <= alignment.others_ms and own_ms != NEVER for alignment, _, own_ms in sights)
        self.lag = self._codes_lag(with_waiting=ahead and not furthest_behind)

    def regulate(self) -> None:
        """Hold back before the lag is too great: from half of what is allowed on, until there is but a quarter, as
        other encoders write between two looks as well."""
        held_back = self.lag > (self._most // 4 if self.held_back else self._most // 2)
        if held_back != self.held_back:
            log.warning("encoding held back" if held_back else "encoding goes on", codes_lag=self.lag)
        self.held_back = held_back

    def wrote(self, messages: int) -> None:
        """So many messages are written; those that are not codes count too, on the safe side."""
        self.lag += messages

    def _codes_lag(self, *, with_waiting: bool) -> int:
        """Records of the codes topic that detection is not done with, or (`with_waiting`) has not committed."""
        ends = self._codes.end_offsets()
        notes = {} if with_waiting else self._broker.group_notes(self._detecting, ends)
        reached = {partition: int(text) for partition, text in notes.items() if text.isdecimal()}
        if len(reached) < len(ends):  # what an older release has committed has no notes
            committed = self._broker.group_offsets(self._detecting, ends)
            reached = {partition: committed.get(partition) or 0 for partition in ends} | reached
        return sum(max(0, end - reached[partition]) for partition, end in ends.items())
