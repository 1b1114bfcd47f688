"""Ratios as they are kept: no factor has a mean above one, whatever rounding and shortening do to them."""

from __future__ import annotations

from math import log

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from stream_monitor.detectors.alternatives import LANES, MIX
from stream_monitor.detectors.evidence import Evidence, EvidenceParams
from stream_monitor.detectors.ratios import LARGEST_RATIO, _compressed
from stream_monitor.reference import Bins
from tests.unit.detectors.references import make
from tests.unit.detectors.shapes import Shape, numeric


def test_every_factor_has_mean_at_most_one_under_the_reference(shape: Shape) -> None:
    detector = Evidence(shape.reference, EvidenceParams(doubt=0.0), 1.0)
    ratios, tables = detector.ratios, detector.tables
    for stratum, column in np.ndindex(*ratios.base.shape):
        width, codes = int(ratios.widths[column]), int(tables.widths[column])
        table = ratios.at(np.full(codes, stratum), column, np.arange(codes)).astype(np.float64)
        means = tables.p[stratum, column, :codes].astype(np.float64) @ table
        assert means.max() < 1 + 1e-6
        if tables.time[column] == 1:
            assert means.min() > 1 - 3e-4  # what rounding down costs
        assert table.min() >= MIX * 0.99
        first = int(ratios.first[column])
        weight = ratios.weights[first : first + width].sum() + ratios.repeat_weights[column]
        assert 0.99 < weight < 3  # raised by what overshoot allows


def compressed(block: npt.NDArray[np.float32], full: int) -> tuple[npt.NDArray[np.float32], int]:
    """What is left of whole rows of ratios, `[codes, alternatives]`, and how many different ends of rows are kept."""
    codes, width = block.shape
    scale = np.exp2(np.ceil(np.log2(block.max(axis=0))) - 64).astype(np.float32)
    one = np.array([0])
    base, rest, kind_base, kinds, table = _compressed(
        [(0, 0)], one[None, :], block.ravel(), np.array([codes]), np.array([width]), np.array([full]), one, scale
    )
    assert (base[0, 0], kind_base[0, 0]) == (1, 0)
    roots = np.zeros((codes, width), dtype=np.float32)
    roots[:, 1:full] = table[1 : rest[0, 0]].reshape(codes, full - 1)
    ends = table[rest[0, 0] : len(table) - LANES].reshape(-1, width - full) if full < width else table[:0, None]
    if full < width:
        roots[:, full:] = ends[kinds]
    squares = roots * roots
    return squares * squares * scale, len(ends)


@pytest.mark.parametrize("largest", [1.0, 1.6, 700.0, 2.0**26])
def test_ratios_are_kept_rounded_down_and_to_a_ten_thousandth(rng: np.random.Generator, largest: float) -> None:
    block = np.exp(rng.uniform(log(0.02), log(largest), size=(70, 32))).astype(np.float32)
    block[3, 1:] = largest
    kept, _ = compressed(block, 20)
    assert (kept[:, 1:] <= block[:, 1:]).all()
    steps = 4 / (block[:, 1:] / largest) ** 0.25 / 55_000
    assert (kept[:, 1:] >= block[:, 1:] * (1 - steps)).all()


def test_ends_of_rows_that_are_alike_are_kept_once(rng: np.random.Generator) -> None:
    block = np.exp(rng.normal(size=(4, 12))).astype(np.float32)[rng.integers(0, 4, size=70)]
    block = np.concatenate([np.exp(rng.normal(size=(70, 20))), block], axis=1).astype(np.float32)
    block[7, 23] *= 1.01
    kept, different = compressed(block, 20)
    assert different == 5
    assert kept[:, 1:] == pytest.approx(block[:, 1:], rel=1e-3)
    assert compressed(block, 32)[1] == 0


@pytest.mark.parametrize("rows", [1_000, 10**6, 10**12])
def test_no_row_says_more_or_less_than_can_be_kept(rows: int) -> None:
    """Of a reference of so many rows a value outside its range is as good as impossible."""
    reference = make({"x": np.arange(100.0)}).reference
    bins = Bins(counts=[0, 0, 0, 0, *[rows // 20] * 20], edges=list(range(20)))
    column = msgspec.structs.replace(reference.columns[0], strata=[bins])
    reference = msgspec.structs.replace(reference, columns=[column])
    detector = Evidence(reference, EvidenceParams(), 1e-6)
    table = detector.ratios.at(np.zeros(24, dtype=np.uint8), 0, np.arange(24))
    assert 0.01 < table.min() < 1 < table.max() <= LARGEST_RATIO


def test_a_numeric_column_has_a_shorter_table_than_a_row_of_all_alternatives_for_every_code() -> None:
    shape = numeric()
    detector = Evidence(shape.reference, EvidenceParams(), 1e-6)
    ratios, codes = detector.ratios, int(detector.tables.widths[0])
    full, width = int(ratios.full[0]), int(ratios.widths[0])
    assert 0 < full < width
    assert len(ratios.table) < 0.65 * codes * width * len(np.unique(ratios.base))


def test_the_ratios_of_a_column_of_70_bins_take_3_kb(rng: np.random.Generator) -> None:
    made = make({"x": rng.normal(size=50_000)})
    ratios = Evidence(made.reference, EvidenceParams(), 1e-8).ratios
    assert 65 < made.reference.columns[0].bins < 75
    assert 2_700 < ratios.table.nbytes < 3_300
