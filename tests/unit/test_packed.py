"""References in memory: the same documents in a fraction of the bytes; and what a watched column takes in all."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.throughput.detection import monitor_of, origins, sample
from benchmarks.throughput.size import another
from benchmarks.throughput.workload import NUMERIC
from stream_monitor.monitor import Monitor
from stream_monitor.packed import Numbers, Quantiles, Rows, padded, plain
from stream_monitor.reference import Reference
from stream_monitor.reference_checks import load
from tests.unit.detectors.references import make

MOST_BYTES = 14_000
"""A column of a stream of twenty, with its part of the reference; every window full."""


def document() -> bytes:
    return another(sample(NUMERIC, 100)[0], "m", np.random.default_rng(1))


def test_a_packed_reference_is_the_same_document() -> None:
    given = document()
    found, unpacked = load(given), msgspec.json.decode(given, type=Reference)
    assert found.to_json() == given
    assert found.digest() == unpacked.digest()
    assert found == unpacked
    assert unpacked == found
    bins = found.columns[0].strata[0]
    assert isinstance(bins.edges, Numbers)
    assert isinstance(bins.counts, Numbers)
    assert isinstance(found.columns[0].quantiles, Quantiles)
    assert found.relations
    assert isinstance(found.relations.levels, Rows)
    changed = msgspec.structs.replace(found, model="another")
    assert changed.digest() == msgspec.json.decode(changed.to_json(), type=Reference).digest() != found.digest()


def test_large_counts_come_through() -> None:
    reference = make({"x": np.arange(40.0)}).reference
    column = reference.columns[0]
    bins = msgspec.structs.replace(column.strata[0], counts=[2**40 + n for n in column.strata[0].counts])
    changed = msgspec.structs.replace(reference, columns=[msgspec.structs.replace(column, strata=[bins])])
    assert load(changed.to_json()) == changed


def test_numbers_compare_as_lists_do() -> None:
    assert Numbers("d", [1.0, 2.0]) == [1.0, 2.0]
    assert Numbers("B", [1, 2]) == Numbers("q", [1, 2])
    assert Numbers("B", [1, 2]) != [1, 3]
    assert Numbers("B", [1]) != (1,)
    with pytest.raises(TypeError, match="set"):
        plain(set())


def test_rows_compare_as_lists_of_lists_do() -> None:
    given = [[], [1], [2, 3]]
    rows = Rows("b", given)
    assert rows == given
    assert given == rows
    assert rows == Rows("q", given)
    assert rows != [[], [1], [2, 4]]
    assert rows != ([], [1], [2, 3])
    assert [*map(list, rows)] == given
    assert rows[-1] == [2, 3]
    assert rows[:2] == [[], [1]]
    assert len(rows) == 3
    with pytest.raises(IndexError):
        rows[3]


def test_levels_are_padded_to_the_widest() -> None:
    assert padded([[0, 1], [2], [3, 4, 5]]).tolist() == [[0, 1, -1], [2, -1, -1], [3, 4, 5]]
    levels: Any = Rows("b", [[0, 1], [-1, 3]])
    assert padded(levels).tolist() == [[0, 1], [-1, 3]]
    assert np.shares_memory(padded(levels), padded(levels))


def test_quantiles_are_those_of_their_column() -> None:
    table = Numbers("d", [1.0, 2.0, 3.0, 4.0])
    one, other = (Quantiles(("0.1", "0.9"), table, row) for row in range(2))
    assert one == {"0.1": 1.0, "0.9": 2.0}
    plainly = {"0.1": 3.0, "0.9": 4.0}
    assert plainly == other
    assert other == plainly
    assert one != other
    assert other.get("0.5") is None
    assert msgspec.json.encode(other, enc_hook=plain) == b'{"0.1":3.0,"0.9":4.0}'
    with pytest.raises(KeyError):
        other["0.5"]


def test_columns_of_different_quantiles_come_through() -> None:
    reference = make({"x": np.arange(40.0), "y": np.arange(40.0), "z": np.arange(40.0)}).reference
    given: list[dict[str, float]] = [{"0.5": 1.0}, {}, {"0.1": 2.0, "0.5": 3.0}]
    columns = [
        msgspec.structs.replace(column, quantiles=quantiles)
        for column, quantiles in zip(reference.columns, given, strict=True)
    ]
    changed = msgspec.structs.replace(reference, columns=columns)
    assert [column.quantiles for column in load(changed.to_json()).columns] == given


def test_what_a_column_takes_in_memory() -> None:
    base, _, codes = sample(NUMERIC, 2_100)
    rng = np.random.default_rng(2)
    documents = [another(base, f"m{number}", rng) for number in range(4)]

    def watched(given: bytes) -> Monitor:
        monitor = monitor_of(load(given))
        for start in range(0, len(codes), 100):
            monitor.feed(codes[start : start + 100], origins(start, 100))
        return monitor

    watched(documents[0])  # compiled, imported, cached
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        held = [watched(each) for each in documents[1:]]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(held) / NUMERIC < MOST_BYTES
