"""The detectors: what each asks of a stream's codes, one file each.

`BUILDERS`: name → (reference, parameters, false alarms a row of the stream) → detector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stream_monitor.detectors.adwin import Adwin, AdwinParams
from stream_monitor.detectors.evidence import Evidence, EvidenceParams
from stream_monitor.detectors.histogram import Histogram, HistogramParams
from stream_monitor.detectors.page_hinkley import PageHinkley, PageHinkleyParams
from stream_monitor.detectors.signal import Detector
from stream_monitor.reference import Reference

Builder = Callable[[Reference, Any, float], Detector]

BUILDERS: Final[dict[str, Builder]] = {
    "evidence": Evidence,
    "adwin": Adwin,
    "page_hinkley": PageHinkley,
    "histogram": Histogram,
}
PARAMS: Final = {
    "evidence": EvidenceParams,
    "adwin": AdwinParams,
    "page_hinkley": PageHinkleyParams,
    "histogram": HistogramParams,
}
"""The parameters of each, with defaults that need no touching."""
SHARES: Final = {"evidence": 0.91, "adwin": 0.03, "page_hinkley": 0.03, "histogram": 0.03}
"""The share of a stream's false-alarm budget that each gets."""
