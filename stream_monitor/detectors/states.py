"""Checking a detector's state before it is taken over: damage is an error by name, never a crash later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_monitor.detectors.signal import State
from stream_monitor.errors import WireError

Array = npt.NDArray[Any]


def restored(detector: str, state: State, like: Mapping[str, Array]) -> dict[str, Array]:
    """Copies of the arrays of `state`, which must have exactly the names, dtypes and shapes of `like`.

    Raises WireError naming the first array that does not fit, or that holds a number that is not finite.
    """
    if set(state) != set(like):
        raise WireError(f"{detector} state: has {sorted(state)}, expected {sorted(like)}: start this detector cold")
    arrays = {}
    for name, own in like.items():
        array = state[name]
        if not isinstance(array, np.ndarray) or array.dtype != own.dtype or array.shape != own.shape:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise WireError(f"{detector} state: {name} is {found}, expected {own.dtype} {own.shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise WireError(f"{detector} state: {name} holds a number that is not finite")
        arrays[name] = array.copy()
    return arrays


def within(detector: str, name: str, array: Array, low: float, high: float) -> None:
    """Raise WireError unless all of `array` lies in low … high (used as an index later, or as a bound)."""
    if array.size and not (low <= float(array.min()) and float(array.max()) <= high):
        raise WireError(f"{detector} state: {name} holds {array.min()} … {array.max()}, possible are {low} … {high}")
