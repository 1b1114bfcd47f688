"""Distances against scipy and against the raw values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance

from stream_monitor.detectors.distances import distances, js_divergence, merged_groups, psi, wasserstein_rank
from stream_monitor.detectors.tables import code_order, probabilities
from tests.unit.detectors.references import encode_numeric, make


def test_js_distance_is_that_of_scipy(rng: np.random.Generator) -> None:
    p, q = rng.dirichlet(np.ones(16), 2)
    q[3], p[4] = 0, 0
    p, q = p / p.sum(), q / q.sum()
    assert js_divergence(p, q) ** 0.5 == pytest.approx(jensenshannon(p, q, base=2))


def test_psi_is_its_definition(rng: np.random.Generator) -> None:
    p, q = rng.dirichlet(np.ones(16) * 5, 2)
    assert psi(p, q, 10**9) == pytest.approx(sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True)))


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5, 3.0])
def test_numbers_agree_with_the_raw_values_to_within_the_binning(shift: float, rng: np.random.Generator) -> None:
    training, live = rng.lognormal(size=50_000), rng.lognormal(mean=shift, size=20_000)
    column = make({"x": training}).reference.columns[0]
    bins = column.strata[0]
    counts = np.bincount(encode_numeric(live, bins), minlength=len(bins.counts))
    order = code_order(len(bins.counts))
    found = distances(counts, probabilities(np.array(bins.counts, dtype=float)), order, 50_000, True)
    assert found.n == 20_000
    assert found.ks == pytest.approx(ks_2samp(training, live).statistic, abs=0.02)
    ranks = np.searchsorted(np.sort(training), live) / len(training)
    plain = wasserstein_distance(ranks, (np.arange(len(training)) + 0.5) / len(training))
    assert found.wasserstein_rank == pytest.approx(plain, abs=0.01)
    deciles = np.quantile(training, np.arange(1, 16) / 16)
    p = np.bincount(np.searchsorted(deciles, training), minlength=16) / len(training)
    q = np.bincount(np.searchsorted(deciles, live), minlength=16) / len(live)
    assert found.js_distance == pytest.approx(jensenshannon(p, q, base=2), abs=0.02)
    if shift < 1:
        assert found.psi == pytest.approx(psi(p, q, 10**9), abs=0.02 + 0.1 * shift)


def test_without_drift_the_effects_are_nil_on_average(rng: np.random.Generator) -> None:
    p, order = np.r_[np.full(4, 1e-6), np.full(20, 1 / 20 - 2e-7)], np.arange(24)
    windows = rng.multinomial(300, p, size=300)
    many = [distances(window, p, order, 1e9, True) for window in windows]
    assert np.mean([d.psi for d in many]) < 0.025  # clipped at 0; uncorrected 0.053
    assert np.mean([d.js_distance > 0.1 for d in many]) < 0.05
    assert np.mean([js_divergence(p, window / 300) ** 0.5 > 0.1 for window in windows]) > 0.5  # uncorrected


def test_wasserstein_of_ranks_by_brute_force(rng: np.random.Generator) -> None:
    p, q = rng.dirichlet(np.ones(12), 2)
    grid = (np.arange(200_000) + 0.5) / 200_000
    reference = np.interp(grid, np.r_[0, np.cumsum(p)], np.r_[0, np.cumsum(q)])
    assert wasserstein_rank(p, np.cumsum(q) - np.cumsum(p)) == pytest.approx(np.abs(reference - grid).mean(), abs=1e-5)


def test_nothing_seen_is_no_distance() -> None:
    found = distances(np.zeros(5, dtype=np.int64), np.full(5, 0.2), np.arange(5), 100, True)
    assert (found.js_distance, found.psi, found.ks, found.wasserstein_rank, found.n) == (0, 0, 0, 0, 0)


def test_groups_are_dense_and_ascending(rng: np.random.Generator) -> None:
    for size in (1, 3, 16, 72):
        groups = merged_groups(rng.dirichlet(np.full(size, 0.3)), 16)
        assert groups[0] == 0
        assert set(np.diff(groups)) <= {0, 1}
        assert groups[-1] < 16
