"""The in-memory broker: demo, replay, back-tests, and the test double."""

from stream_monitor.broker.memory.broker import MemoryBroker
from stream_monitor.broker.memory.clients import MemoryConsumer, MemoryProducer, MemoryReader
from stream_monitor.broker.memory.group import MemoryMember

__all__ = ["MemoryBroker", "MemoryConsumer", "MemoryMember", "MemoryProducer", "MemoryReader"]
