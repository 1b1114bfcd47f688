"""The detectors: what each asks of a stream's codes, one file each.

`BUILDERS`: name → (reference, parameters, false alarms a row of the stream) → detector. `ERROR_BUILDERS`: the same of
those that may be selected for errors of predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from stream_monitor.detectors.adwin import Adwin, AdwinParams
from stream_monitor.detectors.binary import Binary, DdmParams, HddmAParams, HddmWParams
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
ERROR_BUILDERS: Final[dict[str, Builder]] = {name: partial(Binary, name) for name in ("ddm", "hddm_a", "hddm_w")}
PARAMS: Final = {
    "evidence": EvidenceParams,
    "adwin": AdwinParams,
    "page_hinkley": PageHinkleyParams,
    "histogram": HistogramParams,
}
"""The parameters of each, with defaults that need no touching."""
ERROR_PARAMS: Final = {"ddm": DdmParams, "hddm_a": HddmAParams, "hddm_w": HddmWParams}
SHARES: Final = {
    "evidence": 0.91, "adwin": 0.03, "page_hinkley": 0.03, "histogram": 0.03,
    "ddm": 0.01, "hddm_a": 0.01, "hddm_w": 0.01,
}  # fmt: skip
"""The share of a stream's false-alarm budget that each gets; what is selected for errors gets a hundredth on top."""
