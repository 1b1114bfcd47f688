"""Pseudonyms instead of texts, before anything is written: `privacy.raw` hash and none. Pure.

A text of an event (a category, id, label or segment) becomes `sha256:` and 16 hex digits of its HMAC-SHA-256 under
`privacy.salt`: the same everywhere, so that categories can still be counted, compared and joined, and of no use to
whoever does not have the salt. Numbers, booleans and nulls stay, since bins need them; so do names: of models,
versions and features.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stream_monitor.errors import ConfigError, Fault
from stream_monitor.events import MAX_NAME_LENGTH
from stream_monitor.features import ONE_LESS, PREDICTION, canonical
from stream_monitor.outcomes import value_of
from stream_monitor.reference import Column, Reference, Relations, Role, Segment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream_monitor.config import Settings
    from stream_monitor.events import Row
    from stream_monitor.labels import Label
    from stream_monitor.rows import Decoded

PREFIX: Final = "sha256:"
DIGITS: Final = 16
MOST_KNOWN: Final = 50_000
"""Pseudonyms remembered: texts repeat."""
_PSEUDONYM: Final = re.compile(rf"{PREFIX}[0-9a-f]{{{DIGITS}}}")
_TRUTH: Final = frozenset(("true", "false"))


class Veil:
    """Replaces texts by pseudonyms; keeps nothing but a table of those it gave lately."""

    def __init__(self, salt: bytes) -> None:
        self._key = hmac.new(salt, digestmod=hashlib.sha256)
        self._known: dict[str, str] = {}

    def text(self, text: str) -> str:
        """The pseudonym of a text as a category is named; `true` and `false`, however written, are no secrets.

        >>> Veil(b"salt").text("EU"), Veil(b"salt").text("True")
        ('sha256:2fc9afa6b589acd2', 'true')
        """
        found = self._known.get(text)
        if found is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            name = canonical(text) or ""
            found = self._known[text] = name if name in _TRUTH else PREFIX + self.digest(name.encode())[:DIGITS]
        return found

    def digest(self, data: bytes) -> str:
        """The whole HMAC of bytes, in hex."""
        keyed = self._key.copy()
        keyed.update(data)
        return keyed.hexdigest()

    def category(self, value: object) -> str | None:
        """The name of a value in a categorical column whose texts are veiled already; numbers get theirs here."""
        name = canonical(value)
        return name if name is None or isinstance(value, (str, bool)) else self.text(name)

    def features(self, features: Mapping[str, Any], categorical: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Features without their texts; `categorical`: those whose numbers are names as well (dotted where nested)."""
        return {name: self._value(value, name, categorical) for name, value in features.items()}

    def _value(self, value: Any, name: str, categorical: frozenset[str]) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self._value(inner, f"{name}.{key}", categorical) for key, inner in value.items()}
        if isinstance(value, list):
            return []  # an array is no value of any column
        return self.category(value) if name in categorical and value is not None else value

    def outcome(self, value: Any) -> Any:
        """A prediction or a label: texts that are numbers stay, of a map of class to score the classes go."""
        if isinstance(value, str):
            number, _ = value_of(value)
            return self.text(value) if math.isnan(number) else value
        if isinstance(value, dict):
            return {
                self.text(label): None if isinstance(score, (str, list, dict)) else score
                for label, score in value.items()
            }
        return [] if isinstance(value, list) else value

    def segment(self, segment: str) -> str:
        """A segment's name, of `region=EU,plan=pro` the values only; numbers stay."""
        parts = [part.partition("=") for part in segment.split(",")]
        if not all(equals for _, equals, _ in parts):
            return self._given(segment)
        veiled = ",".join(f"{name}={self._given(value)}" for name, _, value in parts)
        return veiled if len(veiled) <= MAX_NAME_LENGTH else self.text(segment)

    def _given(self, text: str) -> str:
        """A text of a name that may be veiled already."""
        return text if not text or _PSEUDONYM.fullmatch(text) or _is_number(text) else self.text(text)

    def row(self, row: Row, categorical: frozenset[str] = frozenset()) -> Row:
        return msgspec.structs.replace(
            row, segment=self.segment(row.segment), features=self.features(row.features, categorical),
            prediction=self.outcome(row.prediction), label=self.outcome(row.label),
            id=row.id and self.text(row.id),
        )  # fmt: skip

    def events(self, decoded: Decoded, categorical: Mapping[str, frozenset[str]]) -> None:
        """Events, in place; `categorical` by model."""
        decoded.features = [
            self.features(features, categorical[model])
            for model, features in zip(decoded.models, decoded.features, strict=True)
        ]
        decoded.predictions = list(map(self.outcome, decoded.predictions))
        decoded.labels = list(map(self.outcome, decoded.labels))
        decoded.ids = [identity and self.text(identity) for identity in decoded.ids]
        decoded.segments = list(map(self.segment, decoded.segments))

    def label(self, label: Label) -> Label:
        return msgspec.structs.replace(label, id=self.text(label.id), label=self.outcome(label.label))

    def reference(self, reference: Reference) -> Reference:
        """A reference without its categories' names, which may be veiled already."""
        veiled = msgspec.structs.replace(
            reference, columns=list(map(self._column, reference.columns)), segment=self.segment(reference.segment),
            skipped=dict(self._skipped(name, reason) for name, reason in reference.skipped.items()),
        )  # fmt: skip
        if veiled.parts:
            veiled = msgspec.structs.replace(veiled, segments=list(map(self._part, veiled.parts)))
        if isinstance(veiled.relations, Relations):
            own = dict(zip((c.name for c in reference.columns), (c.name for c in veiled.columns), strict=True))
            columns = [own.get(name, name) for name in veiled.relations.columns]
            veiled = msgspec.structs.replace(
                veiled, relations=msgspec.structs.replace(veiled.relations, columns=columns)
            )
        performance = veiled.performance
        if performance is not msgspec.UNSET and math.isnan(value_of(performance.positive)[0]):
            positive = performance.positive and self._name(performance.positive)
            veiled = msgspec.structs.replace(
                veiled, performance=msgspec.structs.replace(performance, positive=positive)
            )
        return veiled if veiled != reference else reference

    def _column(self, column: Column) -> Column:
        name = column.name
        if column.role is not Role.INPUT:
            whole, dot, label = name.partition(".")  # the scores of a class
            name = f"{whole}.{self._name(label)}" if dot else name
        return msgspec.structs.replace(
            column, name=name, categories=list(map(self._name, column.categories)),
            rare=list(map(self._name, column.rare)),
        )  # fmt: skip

    def _skipped(self, name: str, reason: str) -> tuple[str, str]:
        """Of two classes the scores of one say all: the reference names both, and they are texts of the label."""
        if not reason.startswith(ONE_LESS):
            return name, reason
        left_out, kept = name.removeprefix(f"{PREDICTION}."), reason.removeprefix(ONE_LESS)
        return f"{PREDICTION}.{self._name(left_out)}", f"{ONE_LESS}{self._name(kept)}"

    def _part(self, part: Segment) -> Segment:
        return msgspec.structs.replace(part, where={each: self._name(value) for each, value in part.where.items()})

    def _name(self, name: str) -> str:
        return name if _PSEUDONYM.fullmatch(name) else self.text(name)


def veil_of(settings: Settings) -> Veil | None:
    """What `privacy` asks for; None where everything may be shown. Raises ConfigError where the salt cannot be read."""
    privacy = settings.privacy
    if privacy.raw == "full":
        return None
    if privacy.salt is not None:
        return Veil(privacy.salt.get_secret_value().encode())
    assert privacy.salt_file is not None  # the settings have been checked
    try:
        salt = privacy.salt_file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError([Fault(str(privacy.salt_file), "privacy.salt_file", "cannot be read", "make it readable")]
                          ) from error  # fmt: skip
    if not salt:
        raise ConfigError([Fault(str(privacy.salt_file), "privacy.salt_file", "is empty", "write the salt into it")])
    return Veil(salt)


def veiled(value: float | str, raw: str) -> float | str | None:
    """What a batch may carry of a value training never saw: all, of a text its pseudonym (given before), or nothing."""
    return value if raw == "full" or (raw == "hash" and isinstance(value, str)) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
