"""One sentence for the person who is paged: what happened in a column, in its own units. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, INVALID, MISSING, NEW, OTHER
from stream_monitor.reference import Bins, Column, Kind
from stream_monitor.signatures import Signature, signature

Counts = npt.NDArray[np.int64]

MOVED: Final = 0.02
"""A share has to move by this much, and by twice its sampling error, to be worth a word."""
RARE_MOVED: Final = 0.003
"""The same of what hardly ever occurs: nulls, values of a wrong type."""
UNLIKELY: Final = 14.0
"""A run of one code is no chance if it has less than exp(−14), a millionth, of happening."""
NARROW: Final = 0.15
"""A bin is as good as one value if it is narrower than this share of the 10–90 % range."""
FEWEST_TO_EXCHANGE: Final = 30
"""Rows it takes to say that two values changed places."""
MOST_FACTS: Final = 3
MOST_NAMES: Final = 3


@dataclass(frozen=True, slots=True)
class Recent:
    """What is known of the rows since the onset beside their counts.

    `numbers`: some of the values outside the training range; `names`: the most frequent of those never seen in training
    with their share of them. `run`: the last rows with one and the same code, the first of them at `since`.
    """

    numbers: Sequence[float] = ()
    names: Sequence[tuple[str, float]] = ()
    run: int = 0
    since: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """`text` is the sentence without the column's name; `direction` one of up, down, wider, narrower, missing,
    invalid, new_values, stuck, rescaled, flipped, mix, shape."""

    text: str
    direction: str


@dataclass(frozen=True, slots=True)
class _Fact:
    weight: float
    direction: str
    text: str


def describe(column: Column, before: Counts, now: Counts, recent: Recent | None = None) -> Description:
    """What moved between the reference's counts and the present ones, both `[codes]`."""
    recent = recent or Recent()
    facts = _quality_facts(column, before, now)
    stuck = _stuck(column, before, now, recent)
    if stuck is not None:
        facts.append(stuck)
    elif column.kind is Kind.NUMERIC:
        facts += _numeric_facts(column, before, now, recent, alone=not facts)
    else:
        facts += _category_facts(column, before, now, recent)
    if not facts:
        return Description("its distribution changed slightly in shape", "shape")
    facts.sort(key=lambda fact: -fact.weight)
    return Description("; ".join(fact.text for fact in facts[:MOST_FACTS]), facts[0].direction)


def _quality_facts(column: Column, before: Counts, now: Counts) -> list[_Fact]:
    facts = []
    wrong = "share of values that are no numbers" if column.kind is Kind.NUMERIC else "share of values of a wrong type"
    for code, direction, words in ((MISSING, "missing", "null rate"), (INVALID, "invalid", wrong)):
        old, new = _share(before, code), _share(now, code)
        if _moved(old, new, int(now.sum()), least=RARE_MOVED):
            facts.append(_Fact(abs(new - old) + 1.0, direction, f"{words} {percent(old)} → {percent(new)}"))
    return facts


def _stuck(column: Column, before: Counts, now: Counts, recent: Recent) -> _Fact | None:
    """One value over and over, for longer than chance or the column's own habit allows."""
    code = int(now.argmax())
    if code in (MISSING, INVALID) or recent.run < max(4, 0.7 * int(now.sum())):
        return None
    usual = max(_share(before, code), column.repeat or 0.0, 1 / (int(before.sum()) + 1))
    if usual >= 1 or -(recent.run - 1) * math.log(usual) < UNLIKELY:
        return None
    since = f" since {recent.since}" if recent.since else ""
    rows = f"({recent.run:,} rows{_usually(column, before)})"
    if column.kind is Kind.NUMERIC and code >= FIRST_BIN:
        return _within_a_bin(column, before, code, since, rows)
    value = _value_of(column, code, recent)
    return _Fact(2.5, "stuck", f"constant{since} {rows}: {value}") if value else None


def _within_a_bin(column: Column, before: Counts, code: int, since: str, rows: str) -> _Fact:
    """All values fell into one bin: called constant where that is narrow, as it is about most training values."""
    if len(column.strata) > 1:
        return _Fact(2.5, "stuck", f"constant{since} {rows}, at the {_rank(code, before)} rank of its hour")
    bins = column.strata[0]
    low, high = (bins.low if code == FIRST_BIN else bins.edges[code - FIRST_BIN - 1]), bins.edges[code - FIRST_BIN]
    where = _range(low, high)
    if high - low <= NARROW * (quantile(bins, before, 0.9) - quantile(bins, before, 0.1)) or _is_atom(before, code):
        return _Fact(2.5, "stuck", f"constant{since} to within {where} {rows}")
    return _Fact(2.0, "narrower", f"all values{since} in {where} {rows}")


def _is_atom(before: Counts, code: int) -> bool:
    """Whether a bin holds more than any bin of a continuous column does: a value that was common."""
    return _share(before, code) > 2 / 62


def _value_of(column: Column, code: int, recent: Recent) -> str | None:
    """What all values of one code are; None if they may be several."""
    if column.kind is Kind.NUMERIC:
        values = set(recent.numbers)
        return f"{number(values.pop())}, outside the training range" if len(values) == 1 else None
    if code >= FIRST_BIN:
        return quoted(column.categories[code - FIRST_BIN])
    if code == NEW and len(recent.names) == 1:
        return f"{quoted(recent.names[0][0])}, never seen in training"
    return None


def _usually(column: Column, before: Counts) -> str:
    if column.kind is Kind.CATEGORICAL or len(column.strata) > 1:
        return ""
    return f"; before: 10–90 % {_spread(column.strata[0], before)}"


def _rank(code: int, before: Counts) -> str:
    """Where an ordinary bin lies among the training values, as a share of them."""
    return percent(float(before[FIRST_BIN : code + 1].sum()) / max(int(before[FIRST_BIN:].sum()), 1))


def _numeric_facts(column: Column, before: Counts, now: Counts, recent: Recent, *, alone: bool) -> list[_Fact]:
    seen, trained = int(now[BELOW:].sum()), int(before[BELOW:].sum())
    if not seen or not trained:
        return []
    facts = _outside_facts(column, before, now, recent.numbers)
    everywhere, inside = [BELOW, *range(FIRST_BIN, len(before)), ABOVE], list(range(FIRST_BIN, len(before)))
    if not _differ(before, now, everywhere) and (facts or not alone):
        return facts
    if len(column.strata) > 1:
        return facts + _rank_facts(before, now)
    bins = column.strata[0]
    if len(bins.edges) == 2 and bins.low == bins.edges[0]:
        return [*facts, _two_values_fact(bins, before, now)]
    found = signature(bins, before, now, recent.numbers)
    if found is not None and found.kind in ("unit", "flip"):
        return [_told(found, bins, before)]
    if facts and not _differ(before, now, inside):
        return facts
    return [*facts, _spread_fact(bins, before, now, found)]


def _told(found: Signature, bins: Bins, before: Counts) -> _Fact:
    """A change of unit or of sign."""
    usually = f"before: median {number(quantile(bins, before, 0.5))}, 10–90 % {_spread(bins, before)}"
    if found.kind == "flip":
        return _Fact(2.0, "flipped", f"the sign of its values is flipped ({usually})")
    factor = number(found.amount) if found.amount > 1 else f"1/{number(1 / found.amount)}"
    whose = "" if found.share == 1.0 else f"about {percent(round(found.share, 2))} of values "
    return _Fact(2.0, "rescaled", f"{whose}scaled by about {factor} (a change of unit?; {usually})")


def _two_values_fact(bins: Bins, before: Counts, now: Counts) -> _Fact:
    """Of a flag there is one share to tell; a median says nothing, and no fault but an exchange explains more."""
    old, new = (float(counts[FIRST_BIN + 1]) / max(int(counts[FIRST_BIN:].sum()), 1) for counts in (before, now))
    text = f"{quoted(number(bins.edges[1]))} {percent(old)} → {percent(new)}"
    if abs((1 - old) - new) < 0.1 * abs(new - old) and int(now.sum()) >= FEWEST_TO_EXCHANGE:
        text += f" (as if {number(bins.edges[0])} and {number(bins.edges[1])} had been exchanged)"
    return _Fact(0.4 + abs(new - old), "up" if new > old else "down", text)


def _spread_fact(bins: Bins, before: Counts, now: Counts, found: Signature | None) -> _Fact:
    """Median and spread before and after; and the shift or factor if one explains it all."""
    old, new = (quantile(bins, counts, 0.5) for counts in (before, now))
    low, high = quantile(bins, before, 0.1), quantile(bins, before, 0.9)
    width = max(high - low, abs(new - old), 1e-300)
    new_low, new_high = quantile(bins, now, 0.1), quantile(bins, now, 0.9)
    widened = math.log(max(new_high - new_low, width * 1e-6) / max(high - low, width * 1e-6))
    shift = abs(new - old) / width
    text = f"median {number(old)} → {number(new)}, 10–90 % {_range(low, high)} → {_range(new_low, new_high)}"
    if found is not None and found.kind == "shift":
        text += f" (all values about {number(abs(found.amount))} {'higher' if found.amount > 0 else 'lower'})"
    elif found is not None:
        text += f" (all values scaled by about {number(found.amount)})"
    if shift >= 0.04 and (shift >= 0.5 * abs(widened) or abs(widened) < 0.15):
        return _Fact(0.4 + shift, "up" if new > old else "down", text)
    if abs(widened) >= 0.15:
        return _Fact(0.4 + abs(widened), "wider" if widened > 0 else "narrower", text)
    moved = _range_moves(bins, before, now)
    return _Fact(0.4, "shape", f"{moved} ({text})" if moved else text)


def _range_moves(bins: Bins, before: Counts, now: Counts) -> str:
    """Where there is more now and where less, of eighths of the training values; for a change that median and spread
    do not show."""
    old, new = before[FIRST_BIN:] / max(int(before.sum()), 1), now[FIRST_BIN:] / max(int(now.sum()), 1)
    eighth = np.minimum((np.cumsum(old) - old / 2) / max(float(old.sum()), 1e-12) * 8, 7).astype(np.intp)
    a, b = (np.bincount(eighth, weights=shares, minlength=8) for shares in (old, new))
    parts = []
    for word, part in (("more", int((b - a).argmax())), ("fewer", int((b - a).argmin()))):
        if _moved(float(a[part]), float(b[part]), int(now.sum())):
            inside = np.flatnonzero(eighth == part)
            low = bins.low if inside[0] == 0 else bins.edges[inside[0] - 1]
            where = _range(low, bins.edges[inside[-1]])
            parts.append(f"{word} values in {where}: {percent(float(a[part]))} → {percent(float(b[part]))}")
    return ", ".join(parts)


def _rank_facts(before: Counts, now: Counts) -> list[_Fact]:
    """With a season the edges differ by the hour: only ranks are common to them."""
    old = before[FIRST_BIN:] / max(int(before[FIRST_BIN:].sum()), 1)
    rank = np.concatenate([[0.0], np.cumsum(old) - old / 2, [1.0]])
    present = np.cumsum(np.concatenate([[now[BELOW]], now[FIRST_BIN:], [now[ABOVE]]]))
    if not present[-1]:
        return []
    ranks = [float(rank[np.searchsorted(present, level * int(present[-1]))]) for level in (0.1, 0.5, 0.9)]
    if ranks[1] in (0.0, 1.0):  # outside the training range, which another fact says
        return []
    low, middle, high = (percent(r) for r in ranks)
    direction = (
        "up" if ranks[1] > 0.54 else "down" if ranks[1] < 0.46 else "wider" if ranks[2] - ranks[0] > 0.8 else "narrower"
    )
    text = f"median at the {middle} rank of the training values of its hour (50 %), 10–90 % at {low}…{high}"
    return [_Fact(0.4 + abs(ranks[1] - 0.5), direction, text)]


def _differ(before: Counts, now: Counts, codes: list[int]) -> bool:
    """Whether the distributions over some codes, in their order, are too far apart for chance (Kolmogorov, Smirnov)."""
    old, new = before[codes], now[codes]
    n, trained = int(new.sum()), int(old.sum())
    if not n or not trained:
        return False
    return float(np.abs(np.cumsum(old / trained - new / n)).max()) > 1.36 * math.sqrt(1 / n + 1 / trained)


def _outside_facts(column: Column, before: Counts, now: Counts, numbers: Sequence[float]) -> list[_Fact]:
    facts = []
    low = min(bins.low for bins in column.strata)
    high = max((bins.edges[-1] for bins in column.strata if bins.edges), default=low)
    for code, word, limit in ((BELOW, "below the training minimum", low), (ABOVE, "above the training maximum", high)):
        old, new = _share(before, code), _share(now, code)
        if _moved(old, new, int(now.sum())):
            there = [value for value in numbers if (value < limit if code == BELOW else value > limit)]
            middle = f"median of these {number(median(there))}; " if _typical(there, new) else ""
            text = f"{percent(new)} of values {_lone(there)}{word} {number(limit)} ({middle}reference {percent(old)})"
            facts.append(_Fact(new - old + 1.5 * bool(_lone(there)), "down" if code == BELOW else "up", text))
    return facts


def _typical(values: Sequence[float], share: float) -> bool:
    """Whether values outside the training range are so many, and known so well, that their median is worth telling."""
    return share >= 0.2 and len(values) >= 5 and not _lone(values)


def _lone(values: Sequence[float]) -> str:
    """The one value that most have, as one that stands for null has."""
    if len(values) < 5:
        return ""
    value, count = Counter(values).most_common(1)[0]
    return f"are {number(value)}, " if count >= 0.8 * len(values) else ""


def _category_facts(column: Column, before: Counts, now: Counts, recent: Recent) -> list[_Fact]:
    facts = []
    total = int(now.sum())
    old, new = _share(before, NEW), _share(now, NEW)
    if _moved(old, new, total, least=0.001):
        told = [f"{quoted(name)} {percent(share * new)}" for name, share in recent.names[:MOST_NAMES]]
        told += ["others"] * (len(recent.names) > len(told))
        text = f"{percent(new)} of values never seen in training"
        facts.append(_Fact(0.6 + new, "new_values", text + (f": {', '.join(told)}" if told else "")))
    names_of = {OTHER: "rare categories", **{FIRST_BIN + i: quoted(name) for i, name in enumerate(column.categories)}}
    moves = [(code, _share(before, code), _share(now, code)) for code in names_of]
    moves = sorted((m for m in moves if _moved(m[1], m[2], total)), key=lambda m: -round(abs(m[2] - m[1]), 9))
    if moves:
        words = [f"{names_of[code]} {percent(a)} → {percent(b)}" for code, a, b in moves[:MOST_NAMES]]
        facts.append(_Fact(abs(moves[0][2] - moves[0][1]), "mix", ", ".join(words)))
    return facts


def quantile(bins: Bins, counts: Counts, level: float) -> float:
    """The quantile of the finite values by linear interpolation within bins, in the column's unit.

    Values outside the training range count as lying at its ends.
    """
    ordinary = counts[FIRST_BIN:].astype(np.float64)
    below, above = float(counts[BELOW]), float(counts[ABOVE])
    target = level * (ordinary.sum() + below + above)
    if target <= below or not len(ordinary):
        return bins.low
    cumulated = below + np.cumsum(ordinary)
    place = int(np.searchsorted(cumulated, target))
    if place >= len(ordinary):
        return bins.edges[-1]
    left = bins.low if place == 0 else bins.edges[place - 1]
    before = below if place == 0 else float(cumulated[place - 1])
    right = bins.edges[place]
    if right - left == 1 and right.is_integer():  # whole numbers, a bin each: nothing lies between
        return right
    share = (target - before) / ordinary[place] if ordinary[place] else 1.0
    return left + (right - left) * share


def _spread(bins: Bins, counts: Counts) -> str:
    return _range(quantile(bins, counts, 0.1), quantile(bins, counts, 0.9))


def _range(low: float, high: float) -> str:
    return f"{number(low)}…{number(high)}"


def _share(counts: Counts, code: int) -> float:
    total = int(counts.sum())
    return float(counts[code]) / total if total else 0.0


def _moved(old: float, new: float, n: int, least: float = MOVED) -> bool:
    error = math.sqrt(max(old, 1 / max(n, 1)) * (1 - min(old, 1.0)) / max(n, 1))
    return abs(new - old) >= max(least, 2 * error)


def percent(share: float) -> str:
    """
    >>> percent(0.0123), percent(0.5), percent(0), percent(0.0002)
    ('1.2 %', '50 %', '0 %', '0.02 %')
    """
    value = 100 * share
    digits = 0 if value >= 10 or value == 0 else 1 if value >= 0.1 else 2
    return f"{value:.{digits}f} %"


def number(value: float) -> str:
    """Three significant digits, thousands separated, no trailing zeros.

    >>> number(12638.0), number(0.48792), number(-3.0), number(1.5e12)
    ('12,638', '0.488', '-3', '1.5e+12')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = abs(value)
    if size >= 1e9 or size < 1e-4:
        return f"{value:.3g}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def quoted(name: str) -> str:
    return f"“{name[:40]}”"
