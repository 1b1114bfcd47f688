"""The code of a value: one byte, the number of the bin it falls into under its column's reference.

The first four codes mean the same in every column, so that a sudden null or a value outside the training range is
visible without knowing the reference. Ordinary bins (of a numeric column, in ascending order) or known categories
follow from `FIRST_BIN` on.
"""

from __future__ import annotations

from typing import Final

MISSING: Final = 0
"""Absent or null."""
INVALID: Final = 1
"""Of the wrong type, NaN or infinite."""
BELOW: Final = 2
"""Numeric: less than the training minimum."""
ABOVE: Final = 3
"""Numeric: more than the training maximum."""
NEW: Final = 2
"""Categorical: never seen in training."""
OTHER: Final = 3
"""Categorical: seen in training, but too rare for a code of its own."""
FIRST_BIN: Final = 4

MAX_BINS: Final = 96
"""Most ordinary bins or categories a column may have: keeps tables small, far below the 252 a byte could hold."""

SPECIAL_NUMERIC: Final = ("missing", "invalid", "below", "above")
SPECIAL_CATEGORICAL: Final = ("missing", "invalid", "new", "other")
