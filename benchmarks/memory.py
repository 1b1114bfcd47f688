"""What a process holds in memory, of its own: `getrusage` counts in what its parent held before it."""

from __future__ import annotations

import re
from pathlib import Path


def rss_bytes() -> int:
    """Resident memory now."""
    return _status("VmRSS")


def peak_rss_bytes() -> int:
    """The most it has been since the program started."""
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
