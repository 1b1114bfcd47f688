"""Thresholds of the two detectors that no useful theorem calibrates, by the false-alarm rate asked for.

The tables are what `python -m benchmarks.calibrate` printed: false alarms a block of one series of independent uniform
block means, 4·10⁷ (Page-Hinkley) and 2·10⁷ (ADWIN) blocks. Rates asked for lie far below what can be simulated, so
both are extrapolated: for Page-Hinkley the logarithm of the rate is linear in the threshold (a random walk with
negative drift), as the table shows; for ADWIN it is taken as linear in the logarithm of δ, while in truth it falls
faster (its bound grows faster than a Gaussian quantile), so that the extrapolation errs towards fewer alarms.
"""

from __future__ import annotations

from math import exp, log
from typing import Final

import numpy as np

PAGE_HINKLEY_RATES: Final = (
    (0.2, 0.00579),
    (0.25, 0.00247),
    (0.3, 0.00102),
    (0.35, 0.000419),
    (0.4, 0.000171),
    (0.45, 6.89e-05),
    (0.5, 2.78e-05),
    (0.55, 1.14e-05),
)
"""Threshold, false alarms a block at `PageHinkleyParams()`."""
ADWIN_RATES: Final = (
    (1.0, 0.000128),
    (0.6, 5.28e-05),
    (0.35, 2.1e-05),
    (0.2, 8.3e-06),
    (0.12, 3.6e-06),
)
"""Confidence δ, false alarms a block at `AdwinParams()`."""


def _line(points: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line of y over x."""
    x, y = np.array(points).T
    slope, intercept = np.polyfit(x, y, 1).tolist()
    return slope, intercept


_PAGE_HINKLEY: Final = _line(tuple((log(rate), threshold) for threshold, rate in PAGE_HINKLEY_RATES))
_ADWIN: Final = _line(tuple((log(rate), log(delta)) for delta, rate in ADWIN_RATES))


def page_hinkley_threshold(rate: float) -> float:
    """The threshold that raises `rate` false alarms a block."""
    slope, intercept = _PAGE_HINKLEY
    return max(slope * log(rate) + intercept, PAGE_HINKLEY_RATES[0][0])


def adwin_delta(rate: float) -> float:
    """The confidence that raises `rate` false alarms a block."""
    slope, intercept = _ADWIN
    return min(exp(slope * log(rate) + intercept), ADWIN_RATES[0][0])
