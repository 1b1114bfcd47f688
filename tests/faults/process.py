"""The worker as the fault tests run it: the product's own command line, in a forked process, under a fault by name.

A fault is `stage:step:number[:action]`: at that stage's commit of that number (from 1), just before that step of the
commit block, the process is killed; `action` `sleep=SECONDS` makes it hang there instead, `soon=MILLISECONDS` kills it
that much later, out of another thread. The step `revoked` is when that stage's member has to give up partitions.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import stream_monitor.broker.kafka as kafka_package
from stream_monitor import cli, worker
from stream_monitor.broker.kafka import GroupConsumer, KafkaBroker, KafkaSettings
from stream_monitor.broker.kafka.producer import TransactionalProducer
from stream_monitor.broker.protocol import Probe

assert worker  # imported here, once, for all processes that are forked from here


def main(log: Path, config: Path, arguments: list[str], fault: str) -> None:
    """The entry point of a forked process: everything it says goes to the log."""
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    if fault:
        print(f"fault: {fault}", flush=True)
        kafka_package.KafkaBroker = faulty(fault)  # type: ignore[misc]
    cli.main(["run", "--config", str(config), *arguments])


def faulty(fault: str) -> type[KafkaBroker]:
    """A broker whose producers are watched by the fault."""
    stage, step, number, *action = fault.split(":")
    commits: Counter[str] = Counter()

    def probe(reached: str) -> None:
        if reached == step:
            commits[step] += 1
            if commits[step] == int(number):
                strike(action[0] if action else "")

    class Faulty(KafkaBroker):
        def __init__(self, settings: KafkaSettings) -> None:
            super().__init__(settings)

        def producer(self, transactional_id: str, *, probe: Probe | None = None) -> TransactionalProducer:
            watched = transactional_id.endswith(f".{stage}")
            return super().producer(transactional_id, probe=_probe if watched else probe)

        def consumer(self, group: str, topics: Sequence[str], *, instance: str) -> GroupConsumer:
            member = super().consumer(group, topics, instance=instance)
            if group.endswith(f"-{stage}"):
                told = member._listener.on_partitions_revoked

                def revoked(partitions: Collection[Any]) -> None:
                    if partitions:
                        probe("revoked")
                    told(partitions)

                member._listener.on_partitions_revoked = revoked  # type: ignore[method-assign,assignment]
            return member

    _probe = probe
    return Faulty


def strike(action: str) -> None:
    kind, _, amount = action.partition("=")
    if kind == "sleep":
        print(f"hangs for {amount} s", flush=True)
        time.sleep(float(amount))
        print("goes on", flush=True)
    elif kind == "soon":
        threading.Timer(float(amount) / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()
    else:
        os.kill(os.getpid(), signal.SIGKILL)
