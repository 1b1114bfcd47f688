"""The incidents of a model on the state topic: one record, `["i", model, "", "", 0]`. Pure.

It is written with the alerts that changed them, in the same transaction as the states of the streams that raised those:
so no alert is taken twice, or never.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Final

import msgspec

from stream_monitor import wire
from stream_monitor.alerts import epoch_ms
from stream_monitor.errors import WireError
from stream_monitor.incidents import MAX_MEMBERS, NONE, IncidentsState
from stream_monitor.reference import StreamKey
from stream_monitor.state import INCIDENT_LETTER
from stream_monitor.state_records import key, parse_key

KIND: Final = b"I"
_decoder = msgspec.msgpack.Decoder(IncidentsState)


def pack(model: str, state: IncidentsState | None, version: int = wire.NEWEST) -> tuple[bytes, bytes | None]:
    """The record; a tombstone where nothing is open."""
    value = wire.pack(KIND, version, state) if state is not None else None
    return key(StreamKey(model), 0, INCIDENT_LETTER), value


def unpack(data: bytes) -> IncidentsState:
    """Raises WireError for numbers and times that cannot be, or VersionUnknown."""
    state = wire.unpack(KIND, data, _decoder)
    for group in state.groups:
        numbers = [incident.number for incident in group.incidents]
        members = group.members
        if len(members) > MAX_MEMBERS or len(set(numbers)) < len(numbers) or any(n < 0 for n in numbers):
            raise WireError("incidents that cannot be")
        if any(member.incident != NONE and member.incident not in numbers for member in members):
            raise WireError("members of incidents that are not there")
        if any(all(member.incident != number for member in members) for number in numbers):
            raise WireError("an incident without members")
        for member in members:
            numbers_given = (member.effect, 0.0 if member.importance is None else member.importance)
            dated = _dated(member.onset.time) and _dated(member.onset.earliest)
            if not 0 <= member.delay_ms < 2**62 or not all(map(isfinite, numbers_given)) or not dated:
                raise WireError("a member of an incident that cannot be")
    return state


def _dated(time: str) -> bool:
    try:
        epoch_ms(time)
    except (ValueError, OverflowError):
        return False
    return True


def of(records: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """Model → record, of the live records of a partition."""
    found = {}
    for raw, value in records.items():
        letter, stream, _ = parse_key(raw)
        if letter == INCIDENT_LETTER:
            found[stream.model] = value
    return found
