"""A worker in a process of its own, for whoever measures it from outside.

    python -m benchmarks.throughput.worker SETTINGS_JSON

Prints a JSON object a line, four times a second: rows watched, alerts, CPU seconds, peak RSS in MiB; until standard
input ends.
"""

from __future__ import annotations

import json
import resource
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from stream_monitor import allocator, collector
from stream_monitor.broker.kafka import KafkaBroker
from stream_monitor.config import Settings
from stream_monitor.worker import Worker


class Watched:
    """The other end: the last line of a worker's, and its end."""

    def __init__(self, settings: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "benchmarks.throughput.worker", json.dumps(settings)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.last: dict[str, float] = {"rows": 0, "alerts": 0, "cpu_s": 0.0}
        self.lines = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.last = json.loads(line)
            self.lines += 1

    def wait(self, until: Callable[[dict[str, float]], bool], limit_s: float = 300.0) -> None:
        deadline_s = time.monotonic() + limit_s
        while not until(self.last):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"a worker came no further than {self.last}")
            time.sleep(0.05)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait(60):
            raise RuntimeError(f"a worker ended with {self._process.returncode}")


def main(document: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for figures
    allocator.settle()  # both as `worker.run` does
    settings = Settings.model_validate_json(document)
    broker = KafkaBroker(settings.kafka.to_settings())
    worker = Worker(settings, broker)
    collector.settle()
    assert worker.detect is not None
    told_s, busy = 0.0, False
    while not select.select([sys.stdin], [], [], 0)[0]:
        busy = worker.step(0.0 if busy else 0.1)
        if time.monotonic() - told_s >= 0.25:
            told_s = time.monotonic()
            usage = resource.getrusage(resource.RUSAGE_SELF)
            counts = worker.detect.counts
            cpu_s = usage.ru_utime + usage.ru_stime
            told = {"rows": counts.rows, "alerts": counts.alerts.total(), "cpu_s": cpu_s}
            print(json.dumps(told), flush=True)
    worker.close()
    broker.close()


if __name__ == "__main__":
    main(sys.argv[1])
