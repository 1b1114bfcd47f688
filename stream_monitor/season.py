"""Does a stream follow the hour of the day or of the week, and which hours are alike? Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stream_monitor.reference import SLOTS, Season

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FEWEST_CYCLES: Final = {Season.HOUR_OF_DAY: 7, Season.HOUR_OF_WEEK: 5}
"""Full periods the reference has to hold before a rhythm is believed."""
MATERIAL_SHARE: Final = 0.02
"""Share of a column's variance a rhythm has to explain to be worth its strata."""
SIGNIFICANT_F: Final = 12.0
"""F ratio of hours against their scatter between cycles: high, since neighbouring hours are not independent."""
_WEEK_STARTS: Final = 72
"""1970-01-01 was a Thursday: 72 hours make the week start on Monday, as in `Reference.strata_of`."""


@dataclass(frozen=True, slots=True)
class Hours:
    """Means by the hour. `hour`: `[hours]` since 1970; `rows`: `[hours]`; `ranks`: `[hours, columns]` mean mid-ranks;
    `variance`: `[columns]` of the mid-ranks of single rows."""

    hour: Ints
    rows: Ints
    ranks: Floats
    variance: Floats

    def slots(self, season: Season) -> tuple[Ints, Ints]:
        """For every hour its slot in the season and the number of its cycle, both from 0."""
        shifted = self.hour + (_WEEK_STARTS if season is Season.HOUR_OF_WEEK else 0)
        return shifted % SLOTS[season], np.unique(shifted // SLOTS[season], return_inverse=True)[1]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which season to use, and why."""

    season: Season
    reason: str


def choose(hours: Hours) -> Choice:
    """The season the reference shows: significant and material in at least one column."""
    day, day_fit = _rhythm(hours, hours.ranks, Season.HOUR_OF_DAY)
    week, _ = _rhythm(hours, hours.ranks - day_fit, Season.HOUR_OF_WEEK)
    if week.any():
        most = (day + week)[week > 0].max()
        return Choice(Season.HOUR_OF_WEEK, f"the hour of the week explains up to {most:.0%} of a column's variance")
    if day.any():
        return Choice(Season.HOUR_OF_DAY, f"the hour of the day explains up to {day.max():.0%} of a column's variance")
    return Choice(Season.NONE, "no rhythm found")


def explained(hours: Hours) -> Floats:
    """The share of each column's variance that the hour of the day and of the week explain, `[columns]`; 0 where that
    is not significant and material."""
    day, day_fit = _rhythm(hours, hours.ranks, Season.HOUR_OF_DAY)
    return day + _rhythm(hours, hours.ranks - day_fit, Season.HOUR_OF_WEEK)[0]


def _rhythm(hours: Hours, ranks: Floats, season: Season) -> tuple[Floats, Floats]:
    """The share of each column's variance that the season explains where that is significant and material, else 0,
    `[columns]`; and the fitted profile of every hour, `[hours, columns]`.

    Cycle means are removed first, so that a trend is no rhythm. Hours are compared with their scatter between cycles,
    not with that of single rows: rows of one hour depend on each other.
    """
    slot, cycle = hours.slots(season)
    cycles = int(cycle.max()) + 1 if len(cycle) else 0
    if cycles < FEWEST_CYCLES[season]:
        return np.zeros(ranks.shape[1]), np.zeros_like(ranks)
    weight = hours.rows[:, None].astype(np.float64)
    residual = ranks - _group_means(ranks, weight, cycle)[cycle]
    profile = _group_means(residual, weight, slot)[slot]
    used = len(np.unique(slot))
    spare = len(slot) - used - cycles + 1
    if used < 2 or spare < used:
        return np.zeros(ranks.shape[1]), profile
    explained = (weight * profile**2).sum(axis=0)
    scatter = (weight * (residual - profile) ** 2).sum(axis=0) / spare
    ratio = explained / (used - 1) / np.maximum(scatter, 1e-12)
    share = explained * (1 - 1 / np.maximum(ratio, 1)) / np.maximum(weight.sum() * hours.variance, 1e-12)
    return np.where((ratio >= SIGNIFICANT_F) & (share >= MATERIAL_SHARE), share, 0.0), profile


def _group_means(values: Floats, weight: Floats, group: Ints) -> Floats:
    """Weighted means of the rows of each group, `[groups, columns]`."""
    sums = np.zeros((int(group.max()) + 1, values.shape[1]))
    weights = np.zeros((len(sums), 1))
    np.add.at(sums, group, values * weight)
    np.add.at(weights, group, weight)
    return sums / np.maximum(weights, 1e-12)


def pool(hours: Hours, season: Season, fewest_rows: int, most_strata: int) -> list[int]:
    """The stratum of every slot of the season: hours that are alike share one until each holds `fewest_rows`.

    Again and again the thinnest stratum joins the one whose mean ranks are nearest (Ward's distance). A slot without
    any row takes the stratum of the nearest hour that has some. Strata are numbered in the order of their first slot.
    """
    slot, _ = hours.slots(season)
    rows = np.bincount(slot, weights=hours.rows, minlength=SLOTS[season])
    means = np.zeros((SLOTS[season], hours.ranks.shape[1]))
    np.add.at(means, slot, hours.ranks * hours.rows[:, None])
    means /= np.maximum(rows, 1)[:, None] * np.sqrt(np.maximum(hours.variance, 1e-12))
    members = {i: [i] for i in range(SLOTS[season]) if rows[i] > 0}
    while len(members) > 1:
        thin = min(members, key=lambda i: (rows[i], i))
        if rows[thin] >= fewest_rows and len(members) <= most_strata:
            break
        others = np.array([i for i in members if i != thin])
        distance = ((means[others] - means[thin]) ** 2).sum(axis=1) * rows[others] / (rows[others] + rows[thin])
        near = int(others[np.argmin(distance)])
        means[near] = (means[near] * rows[near] + means[thin] * rows[thin]) / (rows[near] + rows[thin])
        rows[near] += rows[thin]
        members[near] += members.pop(thin)
    return _numbered([sorted(slots) for slots in members.values()], SLOTS[season])


def _numbered(strata: list[list[int]], size: int) -> list[int]:
    stratum = {slot: number for number, slots in enumerate(sorted(strata)) for slot in slots}
    nearest = [
        min(stratum, key=lambda known: (min((known - slot) % size, (slot - known) % size), known))
        for slot in range(size)
    ]  # fmt: skip
    return [stratum[slot] for slot in nearest]
