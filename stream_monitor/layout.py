"""The layout of an event: the bytes that all events of one producer share, and the places of the values between them.

A program that writes events writes them alike: the same keys in the same order with the same spaces. Whoever has seen
one knows where the values of the next stand, and can prove it by comparing the bytes between them (speculative parsing;
Li et al., Mison: A Fast JSON Parser for Data Analytics, VLDB 2017). Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import orjson

from stream_monitor.events import Reject, Shape, row_of

MOST_SLOTS: Final = 5_000
_DEPTH: Final = 8
_TOKEN: Final = re.compile(rb'[ \t\r\n]*+("[^"\\\x00-\x1f]*+"|[-+.0-9A-Za-z]++|[][{}:,])')
"""A text without escapes, a number or a word, or punctuation; what comes before it is space."""


class _Other(Exception):
    """An event that has no layout: an array in it, an object among its features, an escape, a key that comes twice."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`literals`: the bytes before each value and, last, those after the last one. `parts`: the key of what the shape
    names (`shape.model`, …) → the number of its value. `features`: likewise of each feature."""

    literals: tuple[bytes, ...]
    parts: dict[str, int]
    features: dict[str, int]

    def __hash__(self) -> int:
        return hash(self.literals)

    @property
    def slots(self) -> int:
        return len(self.literals) - 1

    @property
    def least_bytes(self) -> int:
        """No event of this layout is shorter."""
        return sum(map(len, self.literals)) + self.slots

    def part(self, path: str | None) -> int:
        """The slot of what stands at a path of the shape; −1 if nothing does."""
        return -1 if path is None else self.parts.get(path, -1)

    @classmethod
    def of(cls, text: bytes, at: int, shape: Shape) -> Layout | None:
        """Of the event that starts at `at`; None if there is none, or one that is not to be read by its layout."""
        walk = _Walk(text, shape)
        try:
            end = walk.object(at, (), 0)
            event = orjson.loads(text[at:end])
        except (_Other, orjson.JSONDecodeError):
            return None
        if isinstance(row_of(event, 0, 0, 0, 0, shape), Reject) or not walk.features:
            return None
        bounds = [at, *(bound for span in walk.spans for bound in span), end]
        literals = tuple(text[start:stop] for start, stop in list(pairwise(bounds))[::2])
        return cls(literals, walk.parts, walk.features)


class _Walk:
    """Finds the values of one event."""

    def __init__(self, text: bytes, shape: Shape) -> None:
        self.spans: list[tuple[int, int]] = []
        self.parts: dict[str, int] = {}
        self.features: dict[str, int] = {}
        self._text = text
        self._within = shape.features
        named = shape.model, shape.version, shape.segment, shape.time, shape.id, shape.prediction, shape.label
        self._parts = frozenset(named)

    def object(self, at: int, path: tuple[str, ...], depth: int) -> int:
        """Take the object that starts at `at`; where it ends."""
        token, at = self._next(at)
        if token != b"{" or depth > _DEPTH:
            raise _Other
        keys: set[str] = set()
        while True:
            key, at = self._key(at)
            if key in keys:
                raise _Other
            keys.add(key)
            colon, at = self._next(at)
            if colon != b":":
                raise _Other
            at = self._value(at, (*path, key), depth)
            token, at = self._next(at)
            if token == b"}":
                return at
            if token != b",":
                raise _Other

    def _value(self, at: int, path: tuple[str, ...], depth: int) -> int:
        token, end = self._next(at)
        inner = path[0] == self._within and len(path) > 1
        if token == b"{":
            if inner or (len(path) == 1 and path[0] in self._parts):
                raise _Other
            return self.object(at, path, depth + 1)
        if token[:1] in b"[]}:," or len(self.spans) >= MOST_SLOTS:
            raise _Other
        if inner:
            self.features[path[1]] = len(self.spans)
        elif len(path) == 1:
            self.parts[path[0]] = len(self.spans)
        self.spans.append((end - len(token), end))
        return end

    def _key(self, at: int) -> tuple[str, int]:
        token, at = self._next(at)
        if not token.startswith(b'"'):
            raise _Other
        try:
            return token[1:-1].decode(), at
        except UnicodeDecodeError as error:
            raise _Other from error

    def _next(self, at: int) -> tuple[bytes, int]:
        found = _TOKEN.match(self._text, at)
        if found is None:
            raise _Other
        return found[1], found.end()
