"""Apache Kafka, through kafka-python: the only package of this project that imports it."""

from stream_monitor.broker.kafka.broker import KafkaBroker
from stream_monitor.broker.kafka.consumer import GroupConsumer, KafkaMember, PartitionReader
from stream_monitor.broker.kafka.producer import TransactionalProducer, exit_process
from stream_monitor.broker.kafka.settings import KafkaSettings

__all__ = [
    "GroupConsumer",
    "KafkaBroker",
    "KafkaMember",
    "KafkaSettings",
    "PartitionReader",
    "TransactionalProducer",
    "exit_process",
]
