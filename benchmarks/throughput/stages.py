"""CPU time by stage, by wrapping the functions that make it up; a stage that another one calls is not part of that."""

from __future__ import annotations

import time
from collections import defaultdict
from functools import wraps
from typing import Any, Final

from stream_monitor import coding, detect_stage, encode_stage, rows
from stream_monitor.broker.kafka.consumer import GroupConsumer
from stream_monitor.broker.kafka.producer import TransactionalProducer
from stream_monitor.encoder import Encoder
from stream_monitor.feed import ReferenceFeed
from stream_monitor.merge import Merger
from stream_monitor.saving import Saving
from stream_monitor.stream import Stream
from stream_monitor.watching import Watch

WATCHED: Final = (
    (GroupConsumer, "poll", "poll"),
    (Merger, "add", "merge"),
    (Merger, "take", "merge"),
    (Encoder, "encode", "columns"),
    (rows, "parse", "parse"),
    (coding, "code", "encode"),
    (TransactionalProducer, "commit", "commit"),
    (TransactionalProducer, "_write", "produce"),
    (Watch, "read", "batches"),
    (Stream, "feed", "detect"),
    (Saving, "batchful", "state"),
    (ReferenceFeed, "poll", "references"),
    (encode_stage.EncodeStage, "step", "loop"),
    (detect_stage.DetectStage, "step", "loop"),
)


class Stages:
    """`spent_s`: by stage, of the thread that runs the worker."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)
        self._inner_s = [0.0]

    def watch_all(self) -> None:
        for owner, name, stage in WATCHED:
            setattr(owner, name, self._timed(getattr(owner, name), stage))

    def _timed(self, function: Any, stage: str) -> Any:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner_s.append(0.0)
            began_s = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent_s = time.thread_time() - began_s
                self.spent_s[stage] += spent_s - self._inner_s.pop()
                self._inner_s[-1] += spent_s

        return timed
