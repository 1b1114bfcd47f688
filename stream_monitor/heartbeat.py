"""A sign of life on disk: the worker's loop touches a file, a health check looks how old it is."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

BEAT_EVERY_S = 1.0


def touch(path: Path) -> None:
    """Make the file's time now; a directory that is missing is the caller's fault and an OSError."""
    with path.open("ab"):
        os.utime(path)


def is_alive(age_s: float | None, most_s: float) -> tuple[bool, str]:
    """Whether a heartbeat of that age (None: there is none) is a living worker's, and why.

    >>> is_alive(3.2, 120.0)
    (True, 'alive: last heartbeat 3 s ago')
    >>> is_alive(None, 120.0)[0]
    False
    """
    if age_s is None:
        return False, "no heartbeat: the worker has not started, or writes it elsewhere (worker.heartbeat_file)"
    if age_s > most_s:
        return False, f"stuck: last heartbeat {age_s:.0f} s ago, more than {most_s:.0f} s"
    return True, f"alive: last heartbeat {age_s:.0f} s ago"


def age_s(path: Path, now_s: float) -> float | None:
    """Seconds since the last beat; None without one."""
    try:
        return max(0.0, now_s - path.stat().st_mtime)
    except OSError:
        return None


class BeatingStop(threading.Event):
    """The stop of a worker that also shows its pulse: the loop asks `is_set` every round, so that is where it beats."""

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path
        self._next_s = 0.0

    def is_set(self) -> bool:
        now_s = time.monotonic()
        if self._path is not None and now_s >= self._next_s:
            self._next_s = now_s + BEAT_EVERY_S
            with suppress(OSError):  # a full disk must not stop the work; the health check will tell
                touch(self._path)
        return super().is_set()
