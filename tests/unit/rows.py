"""Rows for the tests of encoding and fitting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stream_monitor.events import Row

PACKAGE_DATA = Path(__file__).parents[2] / "stream_monitor" / "data"
TEST_DATA = Path(__file__).parents[1] / "data"


def row(features: dict[str, Any], prediction: Any = None, time_ms: int = 0, offset: int = 0, segment: str = "") -> Row:
    return Row("m", "", segment, time_ms, features, prediction, None, None, 0, offset, 0)


def rows_of(values: Sequence[Any], name: str = "x", step_ms: int = 0) -> list[Row]:
    """One row a value, `step_ms` apart; without it they carry no times."""
    start = 1_700_000_000_000 if step_ms else 0
    return [row({name: value}, time_ms=start + i * step_ms, offset=i) for i, value in enumerate(values)]
