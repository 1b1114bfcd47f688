"""What a reference should watch, and how: the choices of whoever fits one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from stream_monitor.reference import MAX_COLUMNS, Kind, Season


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How to fit a reference; the defaults need no touching.

    `include`, `exclude`: features by name or glob; one that is included by its full name, or given a kind, is watched
    even if it looks like an identifier or never occurs; None includes all. `kinds` overrides what the values say.
    `ordered`: whether the order of the rows is that of the events: True trusts it, False denies it and that of their
    time stamps, None looks at the time stamps. `most_values`: numbers kept in memory, over all columns and streams;
    beyond, edges come from a sample.
    `stratum_rows`: rows that a stratum of a season should hold. `most_columns`: the first so many are watched.
    `segment_by`: features whose values make the segments (so they are watched, as categories), at most `max_segments`
    of at least `segment_rows` rows each. `relations`: whether pairs of columns are counted, too.
    """

    season: Season | Literal["auto"] = "auto"
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    importance: Mapping[str, float] = field(default_factory=dict)
    ordered: bool | None = None
    most_values: int = 32_000_000
    stratum_rows: int = 500
    most_columns: int = MAX_COLUMNS
    segment_by: tuple[str, ...] = ()
    max_segments: int = 20
    segment_rows: int = 500
    relations: bool = True

    def kind(self, feature: str) -> Kind | None:
        """What a feature is to be taken for; None: what its values say."""
        return Kind.CATEGORICAL if feature in self.segment_by else self.kinds.get(feature)

    def named(self) -> list[str]:
        """Features asked for by their full name."""
        listed = [name for name in self.include or () if not set(name) & set("*?[")]
        return list(dict.fromkeys([*listed, *self.kinds, *self.segment_by]))

    def refusal(self, feature: str) -> str | None:
        """Why a feature is not to be watched by these options; None if it may be."""
        if feature in self.segment_by:
            return None
        if any(fnmatchcase(feature, pattern) for pattern in self.exclude):
            return "excluded by the configuration"
        if self.include is not None and not any(fnmatchcase(feature, pattern) for pattern in self.include):
            return "not listed in the configuration"
        return None
