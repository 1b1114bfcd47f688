"""The references topic, read into memory: which reference a stream has, and every reference by its digest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from stream_monitor.errors import ReferenceInvalid
from stream_monitor.privacy import Veil
from stream_monitor.reference import Reference, StreamKey
from stream_monitor.reference_checks import load

LEARNED_EPOCH: Final = 0
"""The epoch of a reference learned by warming up: published ones start at 1, so they always supersede it."""
FIRST_EPOCH: Final = 1
_EXACT: Final = 1 << 40
_MOST_FOUND: Final = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A reference in force for a stream. A greater `generation` supersedes a smaller one, whatever the epochs."""

    reference: Reference
    digest: str
    epoch: int
    generation: int


def epoch_of(generation: int) -> int:
    """The epoch behind an entry's generation."""
    return (generation - _EXACT if generation > _EXACT else generation) - 1


def key_of(stream: StreamKey, epoch: int) -> bytes:
    """The record key: a JSON array `[model, version, segment, epoch]`; every epoch keeps its own record."""
    return msgspec.json.encode([*stream, epoch])


def parse_key(key: bytes | None) -> tuple[StreamKey, int]:
    """Raises ReferenceInvalid if the key is no `[model, version, segment, epoch]`."""
    try:
        model, version, segment, epoch = msgspec.json.decode(key or b"", type=tuple[str, str, str, int])
    except msgspec.MsgspecError as error:
        raise ReferenceInvalid(f"references topic: key is not [model, version, segment, epoch]: {error}") from error
    if not 0 <= epoch < _EXACT:
        raise ReferenceInvalid(f"references topic: epoch {epoch} cannot be")
    return StreamKey(model, version, segment), epoch


@dataclass(slots=True)
class ReferenceBook:
    """All references known; `apply` records of the topic in order. `veil`: categories and segments go by pseudonyms,
    also where the topic has their names."""

    veil: Veil | None = None
    _by_stream: dict[StreamKey, dict[int, tuple[Reference, str]]] = field(default_factory=dict)
    _by_digest: dict[str, Reference] = field(default_factory=dict)
    _found: dict[StreamKey, Entry | None] = field(default_factory=dict)

    def apply(self, key: bytes | None, value: bytes | None) -> tuple[StreamKey, Entry | None]:
        """Take one record over (None deletes); raises ReferenceInvalid and changes nothing if it is unusable."""
        stream, epoch = parse_key(key)
        under = stream._replace(segment=self.veil.segment(stream.segment)) if self.veil else stream
        self._found.clear()
        if value is None:
            removed = self._by_stream.get(under, {}).pop(epoch, None)
            if removed and not self._used(removed[1]):
                self._by_digest.pop(removed[1], None)
            return under, None
        reference = load(value, name=f"reference {stream}, epoch {epoch}")
        if reference.stream != stream:
            raise ReferenceInvalid(f"reference of {reference.stream} published under the key of {stream}")
        reference = self.veil.reference(reference) if self.veil else reference
        digest = reference.digest()
        self._by_digest[digest] = reference
        self._by_stream.setdefault(under, {})[epoch] = (reference, digest)
        return under, self.find(under)

    def find(self, stream: StreamKey) -> Entry | None:
        """The reference in force: the stream's own, else the one for all versions of the model (same segment).

        A segment never borrows the whole model's reference: it differs from the whole by nature, not by drift.
        """
        if stream not in self._found:
            if len(self._found) >= _MOST_FOUND:  # names come from events
                self._found.clear()
            exact = self._newest(stream, _EXACT)
            self._found[stream] = exact or self._newest(StreamKey(stream.model, "", stream.segment), 0)
        return self._found[stream]

    def by_digest(self, digest: str) -> Reference | None:
        return self._by_digest.get(digest)

    def newest_epoch(self, stream: StreamKey) -> int | None:
        """The newest epoch published under exactly this key; None without one."""
        return max(self._by_stream.get(stream, {}), default=None)

    def streams(self) -> list[StreamKey]:
        return sorted(stream for stream, epochs in self._by_stream.items() if epochs)

    @staticmethod
    def entry(reference: Reference, epoch: int) -> Entry:
        """What `find` gives for a stream whose own newest reference this is."""
        return Entry(reference, reference.digest(), epoch, _EXACT + epoch + 1)

    def _newest(self, stream: StreamKey, rank: int) -> Entry | None:
        epochs = self._by_stream.get(stream)
        if not epochs:
            return None
        epoch = max(epochs)
        reference, digest = epochs[epoch]
        return Entry(reference, digest, epoch, rank + epoch + 1)

    def _used(self, digest: str) -> bool:
        return any(digest == other for epochs in self._by_stream.values() for _, other in epochs.values())
