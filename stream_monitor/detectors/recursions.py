"""The recursions of `evidence` a row, compiled: the hunt for a drift, and the filter of an open episode. See there."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from stream_monitor.codes import INVALID
from stream_monitor.compiled import inlined, njit
from stream_monitor.detectors.ratios import REPEAT_SCALE

NEVER: Final = -1
NO_CODE: Final = 255
"""The previous code before the first row: no column has that many."""
FADE_EVERY: Final = 16
"""Rows between two steps of fading: at every row they would cost more than they are worth."""
LARGEST: Final = 2.0**100
"""Nothing grows beyond this: float32 ends at 2¹²⁸, and one row multiplies by less than 1e8."""


@njit
def advance(
    codes: Any, strata: Any, first_row: int, pane_rows: int, threshold: Any, hazards: Any,
    code_widths: Any, widths: Any, firsts: Any, fulls: Any, base: Any, rest: Any, kind_base: Any, kinds: Any,
    table: Any, scale_base: Any, scale: Any, repeat_base: Any, repeat: Any, no_repeat: Any,
    weights: Any, repeat_weights: Any, half: Any, weaker: Any, evidence: Any, halves: Any, cusum: Any, ages: Any,
    previous: Any, pending: Any, back: Any, engaged: Any, return_row: Any, found: Any, values: Any,
) -> int:  # fmt: skip
    """Feed rows to all columns, one column after the other; returns how many of `found` and `values` are filled.

    A row of `found`: row, column, strongest alternative, age of its CUSUM. Number 0, `repeat`, looks at two rows and
    lives apart from the others, which the compiler handles eight at a time.
    """
    count = 0
    # A row has room for the lanes that `_look_up` writes beyond a column's last alternative.
    pairs, roots = np.empty(len(codes), dtype=np.float32), np.empty((len(codes), widths.max() + 8), dtype=np.uint16)
    for column in range(codes.shape[1]):
        width, first = widths[column], firsts[column]
        own, weight = evidence[first : first + width], weights[first : first + width]
        scales = scale[scale_base[column] : scale_base[column] + width]
        _look_up(
            codes[:, column], strata, previous, column, code_widths[column], width, fulls[column], base[:, column],
            rest[:, column], kind_base[:, column], kinds, table, repeat_base[:, column], repeat, no_repeat[column],
            roots, pairs,
        )  # fmt: skip
        i = 0
        if not engaged[column]:
            stop = len(codes)
            if pending[column]:
                stop = min(stop, -first_row % pane_rows)
            cu, age = cusum[first : first + width], ages[first : first + width]
            i, total = _hunt(stop, roots, scales, pairs, weight, repeat_weights[column], threshold, own, cu, age)
            if total > 0:
                best = _strongest(own)
                found[count, 0], found[count, 1] = first_row + i - 1, column
                found[count, 2], found[count, 3] = best, age[best]
                values[count] = min(total, np.float32(LARGEST))
                count += 1
            if total > 0 or i < len(codes):
                pending[column], engaged[column] = False, True
                _open(
                    own,
                    halves[first : first + width],
                    half[first : first + width],
                    hazards[3],
                    weight,
                    repeat_weights[column],
                )
                cu[:] = np.float32(1.0)
                age[:] = 0
        if engaged[column]:
            _follow(
                i, first_row, roots, scales, pairs, weight, repeat_weights[column], half[first : first + width],
                weaker[first : first + width], hazards, own, halves[first : first + width], column, back, return_row,
            )  # fmt: skip
    return count


@njit
def _look_up(
    codes: Any, strata: Any, previous: Any, column: int, code_width: int, width: int, full: int, base: Any, rest: Any,
    kind_base: Any, kinds: Any, table: Any, repeat_base: Any, repeat: Any, no_repeat: Any, roots: Any, pairs: Any,
) -> None:  # fmt: skip
    """Each row's roots, those of its code and those that codes share put together, and its ratio for `repeat`."""
    last = previous[column]
    for i in range(len(codes)):
        code = codes[i]
        if code >= code_width:  # not of this reference: never read beyond the table
            code = INVALID
        stratum = strata[i]
        own = base[stratum] + code * (full - 1) - 1
        shared = rest[stratum] + kinds[kind_base[stratum] + code] * (width - full)
        row = roots[i]
        for k in range(0, full, 8):  # what is too much at either end is written over
            _copy_lanes(table[own + k : own + k + 8], row[k : k + 8])
        for k in range(0, width - full, 4):
            _copy_four(table[shared + k : shared + k + 4], row[full + k : full + k + 4])
        row[0] = 0
        pairs[i] = no_repeat
        if code == last:
            pairs[i] = _ratio(repeat[repeat_base[stratum] + code], np.float32(REPEAT_SCALE))
        if last == NO_CODE:
            pairs[i] = np.float32(1.0)
        last = code
    previous[column] = last


@njit
def _copy_lanes(source: Any, target: Any) -> None:
    """Eight values; all are read before any is written, so that the compiler can move them at once."""
    a, b, c, d = source[0], source[1], source[2], source[3]
    e, f, g, h = source[4], source[5], source[6], source[7]
    target[0], target[1], target[2], target[3] = a, b, c, d
    target[4], target[5], target[6], target[7] = e, f, g, h


@njit
def _copy_four(source: Any, target: Any) -> None:
    a, b, c, d = source[0], source[1], source[2], source[3]
    target[0], target[1], target[2], target[3] = a, b, c, d


@njit
def _ratio(root: Any, scale: Any) -> Any:
    """What `Ratios.table` keeps of it."""
    square = np.float32(root) * np.float32(root)
    return square * square * scale


def _added(values: Any) -> Any:
    """Eight partial sums: the order of addition is fixed, and the compiler can still use vector lanes."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0.0)
    for k in range(0, len(values), 8):
        s0 += values[k]
        s1 += values[k + 1]
        s2 += values[k + 2]
        s3 += values[k + 3]
        s4 += values[k + 4]
        s5 += values[k + 5]
        s6 += values[k + 6]
        s7 += values[k + 7]
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


_sum = njit(_added)
_sum_here = inlined(_added)
"""Put into its caller it saves `_hunt` a tenth, and would cost `_follow` a quarter (`benchmarks/episode_cost.py`)."""


@njit
def _hunt(
    stop: int, roots: Any, scales: Any, pairs: Any, weight: Any, repeat_weight: Any, threshold: Any, sr: Any, cu: Any,
    age: Any,
) -> tuple[int, Any]:  # fmt: skip
    """Feed rows up to `stop` or to the first that fires: how many were fed, and the evidence if it fired, else 0."""
    one = np.float32(1.0)
    repeated, repeated_cusum, repeated_age = sr[0], cu[0], age[0]
    sr[0], cu[0], age[0] = np.float32(0.0), one, 0
    fed, fired = 0, np.float32(0.0)
    while fed < stop:
        root, pair = roots[fed, : len(sr)], pairs[fed]
        fed += 1
        repeated = (repeated + repeat_weight) * pair
        repeated_cusum *= pair
        repeated_age += 1
        if repeated_cusum <= one:
            repeated_cusum, repeated_age = one, 0
        for k in range(len(sr)):
            ratio = _ratio(root[k], scales[k])
            sr[k] = (sr[k] + weight[k]) * ratio
            grown = cu[k] * ratio
            cu[k] = max(grown, one)  # no branch: half a vector's store would hold up the next row's load
            age[k] = (age[k] + 1) * np.int32(grown > one)
        total = _sum_here(sr) + repeated
        if total >= threshold:
            fired = total
            break
    sr[0], cu[0], age[0] = repeated, repeated_cusum, repeated_age
    return fed, fired


@njit
def _follow(
    i: int, first_row: int, roots: Any, scales: Any, pairs: Any, weight: Any, repeat_weight: Any, half: Any,
    weaker: Any, hazards: Any, posterior: Any, halves: Any, column: int, back: Any, return_row: Any,
) -> None:  # fmt: skip
    """The forward filter of an open episode over rows `i` and on; `back` is the posterior of the reference."""
    one, zero, tiny = np.float32(1.0), np.float32(0.0), np.float32(1e-9)  # ruled out
    halved = _sum(halves)
    returning, changing, enough, fading = hazards[0], hazards[1], hazards[2], hazards[4]
    normal, returned = back[column], return_row[column]
    repeated = posterior[0]
    posterior[0] = np.float32(0.0)
    for j in range(i, len(pairs)):
        root = roots[j, : len(posterior)]
        for k in range(len(posterior)):
            posterior[k] *= _ratio(root[k], scales[k])
        if halved > 0:  # not yet ruled out
            for k in range(len(posterior)):
                halves[k] *= half[k] * np.sqrt(_ratio(root[k], scales[k]))
            halved = _sum(halves)
        repeated *= pairs[j]
        drifted = _sum(posterior) + halved + repeated
        scale = one / (drifted + normal)
        stay = (one - returning - changing) * scale
        for k in range(len(posterior)):
            posterior[k] = posterior[k] * stay + changing * weight[k]
        if halved > 0:
            for k in range(len(posterior)):
                kept = halves[k] * stay
                halves[k] = kept if kept > tiny else zero
            halved = _sum(halves)
        if (first_row + j) % FADE_EVERY == FADE_EVERY - 1:
            for k in range(len(posterior)):
                if weaker[k] >= 0:
                    posterior[weaker[k]] += fading * posterior[k]
        repeated = repeated * stay + changing * repeat_weight
        normal = (returning * drifted + (one - changing) * normal) * scale
        if normal < 0.5:
            returned = NEVER
        elif normal >= enough and returned < 0:
            returned = first_row + j
    posterior[0], back[column], return_row[column] = repeated, normal, returned


@njit
def _strongest(evidence: Any) -> int:
    """The number of the alternative with the most weighted evidence."""
    best = 0
    for k in range(1, len(evidence)):
        if evidence[k] > evidence[best]:
            best = k
    return best


@njit
def _open(evidence: Any, halves: Any, half: Any, odds: Any, weight: Any, repeat_weight: Any) -> None:
    """Turn weighted evidence into the posterior of the alternatives, in place, and that of their halves."""
    evidence[0] += repeat_weight
    total = np.float32(0.0)
    for k in range(len(evidence)):
        evidence[k] += weight[k]
        total += evidence[k]
    for k in range(len(evidence)):
        halves[k] = odds * (evidence[k] + odds * weight[k] * total) if half[k] > 0 else np.float32(0.0)
    for k in range(len(evidence)):
        evidence[k] /= total
        halves[k] /= total
