"""The allocator keeps what was free, where it can be told to."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from stream_monitor import allocator

FAULTS = """
import resource
import numpy as np
from stream_monitor import allocator
{settle}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    arrays = [np.ones(12_500) for _ in range(20)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

HEAPS = """
import ctypes, threading
import numpy as np
from stream_monitor import allocator
{settle}
meet = threading.Barrier(4)
def work():
    meet.wait()
    np.ones(1_000)
    meet.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
[each.start() for each in threads]
[each.join() for each in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set")
def test_arrays_that_come_and_go_are_not_faulted_in_again() -> None:
    def faults(settle: str) -> int:
        script = FAULTS.format(settle=settle)
        return int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)

    assert faults("assert allocator.settle()") < faults("") / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set")
def test_threads_share_one_heap() -> None:
    def heaps(settle: str) -> int:
        script = HEAPS.format(settle=settle)
        told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        return told.count("<heap nr=")

    assert heaps("") > 1
    assert heaps("assert allocator.settle()") == 1


def test_whoever_has_set_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not allocator.settle()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not allocator.settle()
