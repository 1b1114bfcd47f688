"""One place for the compiler: numba with a disk cache where a directory can be written, typed for mypy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def njit(function: F) -> F:
    """Compile on first use, without fast-math (bit for bit the same on every machine) and without the GIL."""
    try:
        return _compile(function, cache=True)
    except RuntimeError:  # numba found no directory to keep its cache in (read-only container): compile every time
        return _compile(function, cache=False)


def inlined(function: F) -> F:
    """Likewise, for a small function in a hot loop: handing an array over costs some nanoseconds."""
    compiled: F = numba.njit(inline="always", nogil=True, error_model="numpy")(function)
    return compiled


def _compile(function: F, *, cache: bool) -> F:
    compiled: F = numba.njit(cache=cache, nogil=True, error_model="numpy")(function)
    return compiled
