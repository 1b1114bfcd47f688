"""Parquet files → columns of Python values; needs the extra `parquet`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from stream_monitor.errors import DataError


def read_parquet(
    path: Path, rows_at_once: Callable[[int], int], advance: Callable[[int], None]
) -> Iterator[dict[str, list[Any]]]:
    """The file's columns by name, so many rows at a time as `rows_at_once` says for their number; `advance` is told of
    each chunk's share of the file's bytes.

    Decimals become floats, dates and times texts in ISO 8601. Raises DataError where pyarrow is missing or the file is
    damaged.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f'{path}: Parquet needs pyarrow: pip install "stream-monitor[parquet]"') from error
    size, done = path.stat().st_size, 0
    try:
        with ParquetFile(path) as file:
            total = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=rows_at_once(file.metadata.num_columns)):
                yield {name: _plain(values) for name, values in batch.to_pydict().items()}
                read = size * batch.num_rows // total
                done += read
                advance(read)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    advance(size - done)


def _plain(values: list[Any]) -> list[Any]:
    """Values as JSON would hold them."""
    kinds = set(map(type, values))
    if any(issubclass(kind, date) for kind in kinds):
        return [value.isoformat() if isinstance(value, date) else value for value in values]
    if Decimal in kinds:
        return [float(value) if isinstance(value, Decimal) else value for value in values]
    return values
