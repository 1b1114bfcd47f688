"""What a finite reference and overshoot make of a likelihood ratio, against plain simulations of both."""

from __future__ import annotations

from math import exp, lgamma, log

import numpy as np
import numpy.typing as npt
import pytest

from stream_monitor.detectors.doubt import MOST_ROWS, _rise, doubted, overshoot, told_apart

Floats = npt.NDArray[np.float64]
LOG_THRESHOLD = log(1e6)


def two_codes(p: float, q: float) -> tuple[Floats, Floats]:
    """Ratios `[1, 2, 1]` and probabilities `[1, 2]` of a code that goes from p to q."""
    return np.array([[[q / p], [(1 - q) / (1 - p)]]]), np.array([[p, 1 - p]])


def test_without_doubt_the_logarithms_are_plain() -> None:
    ratios, p = two_codes(0.2, 0.3)
    assert doubted(ratios, p, np.array([50_000.0]), np.ones(1), 0.0, LOG_THRESHOLD) == pytest.approx(np.log(ratios))


@pytest.mark.parametrize(("p", "q", "n"), [(0.2, 0.3, 50_000.0), (0.5, 0.4, 20_000.0)])
def test_a_filled_reference_costs_the_log_threshold_over_n(p: float, q: float, n: float) -> None:
    ratios, shares = two_codes(p, q)
    weakened = doubted(ratios, shares, np.array([n]), np.ones(1), 1.0, LOG_THRESHOLD)
    mass = shares[:, :, None] * ratios
    cost = float((mass * (np.log(ratios) - weakened)).sum())
    chi_square = float((mass * (ratios - 1)).sum())
    information = float((mass * np.log(ratios)).sum())
    assert cost == pytest.approx(LOG_THRESHOLD / n * chi_square / (2 * information), rel=0.1)


def test_in_the_mean_over_references_evidence_is_worth_its_face() -> None:
    """10⁵ rows drawn for the truth behind 40 of 5,000: with the doubt, the mean e-value of 20 hits is at most 1."""
    rng = np.random.default_rng(0)
    m, n, k = 40, 5_000, 20
    truth = rng.gamma(m, 1 / n, 100_000)
    face = float(np.mean((truth / (m / n)) ** k))
    paid = face * exp(-k * float(_rise(np.array(float(m)), np.array(float(k)))))
    assert face > 50
    assert 0.3 < paid <= 1.05


def test_rare_codes_cost_a_factorial() -> None:
    for m, k in ((1.0, 3.0), (2.0, 5.0), (8.0, 3.0)):
        exact = (lgamma(m + k) - lgamma(m) - k * log(m)) / k
        assert exact <= float(_rise(np.array(m), np.array(k))) < exact + 0.15


def test_what_a_small_reference_cannot_support_is_not_tested() -> None:
    ratios, p = two_codes(0.5, 0.55)
    assert not doubted(ratios, p, np.array([1_000.0]), np.ones(1), 1.0, LOG_THRESHOLD).any()
    assert doubted(ratios, p, np.array([20_000.0]), np.ones(1), 1.0, LOG_THRESHOLD).all()
    information = np.array([[0.01]])
    assert told_apart(information, np.array([LOG_THRESHOLD / 0.01 / MOST_ROWS * 1.01]), LOG_THRESHOLD).all()
    assert not told_apart(information, np.array([LOG_THRESHOLD / 0.01 / MOST_ROWS * 0.99]), LOG_THRESHOLD).any()


@pytest.mark.parametrize("d", [0.25, 0.5, 1.0])
def test_overshoot_of_a_gaussian_walk(d: float) -> None:
    """−log E exp(−overshoot) of a walk with steps N(d²/2, d²), simulated; the formula is its first order."""
    rng = np.random.default_rng(1)
    walk, left, over = np.zeros(20_000), np.ones(20_000, dtype=bool), np.zeros(20_000)
    while left.any():
        walk[left] += rng.normal(d * d / 2, d, int(left.sum()))
        done = left & (walk >= 12)
        over[done] = walk[done] - 12
        left &= ~done
    z = np.linspace(-6, 6, 4_001)
    q = np.exp(-(z**2) / 2)
    found = float(overshoot((d * d / 2 + d * z)[None, :, None], (q / q.sum())[None, :, None])[0, 0])
    assert found == pytest.approx(-log(float(np.exp(-over).mean())), rel=0.06)


def test_a_walk_that_climbs_in_small_steps_does_not_overshoot() -> None:
    ratios, p = two_codes(0.02, 0.005)
    assert overshoot(np.log(ratios), p[:, :, None] * ratios)[0, 0] == 0
    assert overshoot(np.zeros((1, 2, 1)), p[:, :, None])[0, 0] == 0
