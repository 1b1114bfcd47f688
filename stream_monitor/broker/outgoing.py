"""What both brokers do with messages before they go out: check them, and spread keys over partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from stream_monitor.broker.protocol import Member, Message, TopicPartition
from stream_monitor.errors import BrokerError

_OVERHEAD_BYTES = 128  # the batch header (61), the record's own varints, and some air
_SEED = 0x9747B28C
_MIX = 0x5BD1E995
_MASK = 0xFFFFFFFF


def check_commit(
    messages: Sequence[Message],
    offsets: Mapping[TopicPartition, int],
    member: Member | None,
    max_message_bytes: int,
) -> None:
    """Refuse what no transaction can do: ValueError for misuse, BrokerError for a message over `max_message_bytes`."""
    if (member is None) != (not offsets):
        raise ValueError("offsets and the member who read them go together: give both or neither")
    for message in messages:
        key, value = message.key, message.value
        if key is None and value is None:
            raise ValueError(f"a message to {message.topic} has neither key nor value; a tombstone needs its key")
        size = len(key or b"") + len(value or b"") + _OVERHEAD_BYTES
        if message.headers:
            size += sum(len(name) + len(content) for name, content in message.headers)
        if size > max_message_bytes:
            raise BrokerError(
                f"a message of about {size} bytes to {message.topic} is larger than the {max_message_bytes} allowed; "
                "split it, or raise max_request_size here and message.max.bytes on the broker"
            )


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition a key belongs to, equal to what Kafka's Java client and kafka-python choose.

    >>> [partition_of(key, 32) for key in (b"", b"credit-risk", b"churn")]
    [25, 2, 9]
    """
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with Kafka's seed."""
    hashed = _SEED ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _MIX & _MASK
        hashed = (hashed * _MIX & _MASK) ^ ((word ^ word >> 24) * _MIX & _MASK)
    if whole < len(data):
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * _MIX & _MASK
    hashed = (hashed ^ hashed >> 13) * _MIX & _MASK
    return hashed ^ hashed >> 15
