"""The Kafka broker: opens clients, and asks the cluster about topics and offsets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient, errors
from kafka.admin import ConfigResource
from kafka.protocol.consumer import OffsetSpec

from stream_monitor.broker.kafka.clients import open_client, theirs, translating
from stream_monitor.broker.kafka.consumer import GroupConsumer, PartitionReader
from stream_monitor.broker.kafka.producer import OnStuck, TransactionalProducer, exit_process
from stream_monitor.broker.kafka.settings import KafkaSettings
from stream_monitor.broker.protocol import Probe, TopicInfo, TopicPartition, TopicSpec
from stream_monitor.errors import BrokerError

Answer = TypeVar("Answer")
ASK_AGAIN_S: Final = 0.1
"""Between two tries of a question that the cluster cannot answer yet."""
_TOPIC_REFUSED = errors.TopicAuthorizationFailedError.errno


class KafkaBroker:
    """Apache Kafka 2.7 or later through kafka-python; see `protocol.Broker`. Opens connections when first needed.

    Not before 2.7: there, a producer that has been replaced can take its name back without noticing. `on_stuck` is
    called with a reason when a commit outlives its time limits; it must not return in production.
    """

    def __init__(self, settings: KafkaSettings, *, on_stuck: OnStuck = exit_process) -> None:
        self._settings = settings
        self._on_stuck = on_stuck
        self._lock = threading.Lock()
        self._admin_client: KafkaAdminClient = None

    def consumer(self, group: str, topics: Sequence[str], *, instance: str) -> GroupConsumer:
        return GroupConsumer(self._settings, group, topics, instance)

    def reader(self, partitions: Collection[TopicPartition]) -> PartitionReader:
        return PartitionReader(self._settings, partitions, self._ends)

    def producer(self, transactional_id: str, *, probe: Probe | None = None) -> TransactionalProducer:
        return TransactionalProducer(self._settings, transactional_id, probe, self._on_stuck)

    def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        if not names:
            return {}
        described = self._ask("describing topics", lambda admin: admin.describe_topics(sorted(names)))
        hidden = [each["name"] for each in described if each["error_code"] == _TOPIC_REFUSED]
        if hidden:
            raise BrokerError(
                f"Kafka at {self._settings.address} refused to show {', '.join(hidden)} to this user; check the ACLs: "
                "docs/security.md lists those that a worker needs"
            )
        # A topic being created has a name before it has partitions: it does not exist yet.
        known = [each for each in described if not each["error_code"]]
        if not known:
            return {}
        wanted = [ConfigResource("TOPIC", each["name"]) for each in known]
        configs = self._ask("describing topics", lambda admin: admin.describe_configs(wanted, config_filter="all"))
        return {
            name: TopicInfo(
                name,
                len(each["partitions"]),
                {key: setting["value"] for key, setting in configs["topic"].get(name, {}).items()},
                frozenset(each.get("authorized_operations") or ()) or None,  # a broker before 2.3 tells nothing
            )
            for each in known
            for name in (each["name"],)
        }

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        known = self.topics({spec.name for spec in specs})
        missing = [spec for spec in specs if spec.name not in known]
        for spec in missing:
            self._create(spec)
        names = [spec.name for spec in missing]
        self._ask(f"waiting for the topics {', '.join(names)}", lambda admin: admin.wait_for_topics(names))

    def group_offsets(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        return {partition: _known(found) for partition, found in self._committed(group, partitions).items()}

    def group_notes(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, str]:
        found = self._committed(group, partitions)
        return {partition: "" if each is None else each.metadata or "" for partition, each in found.items()}

    def given(self, group: str) -> frozenset[TopicPartition] | None:
        found = self._ask(f"describing group {group}", lambda admin: admin.describe_groups([group]))[group]
        if found["error"] or found["group_state"] != "Stable":
            return None
        return frozenset(
            TopicPartition(each["topic"], number)
            for member in found["members"]
            if member["member_assignment"]  # empty bytes: nothing
            for each in member["member_assignment"]["assigned_partitions"]
            for number in each["partitions"]
        )

    def close(self) -> None:
        with self._lock:
            if self._admin_client is not None:
                self._admin_client.close()
                self._admin_client = None

    def _create(self, spec: TopicSpec) -> None:
        options: dict[str, Any] = {"num_partitions": spec.partitions, "configs": dict(spec.settings)}
        if spec.replication is not None:
            options["replication_factor"] = spec.replication
        response = self._ask(
            f"creating the topic {spec.name}",
            lambda admin: admin.create_topics({spec.name: options}, raise_errors=False),
        )
        for each in response["topics"]:
            error = errors.for_code(each["error_code"])
            if error not in (errors.NoError, errors.TopicAlreadyExistsError):
                raise BrokerError(
                    f"topic {spec.name} with {spec.partitions} partitions could not be created at "
                    f"{self._settings.address}: {error.__name__}: {each['error_message']}"
                )

    def _committed(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Any]:
        """What the group has committed, as the client has it."""
        if not partitions:
            return {}
        asked = {group: [theirs(partition) for partition in partitions]}
        found = self._ask(f"asking for the offsets of group {group}", lambda admin: admin.list_group_offsets(asked))
        return {partition: found[group].get(partition) for partition in partitions}

    def _ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The high watermarks: records of open transactions, and markers, lie below them."""
        asked: Mapping[Any, Any] = {theirs(partition): OffsetSpec.LATEST for partition in partitions}
        found = self._ask("asking for the ends of partitions", lambda admin: admin.list_partition_offsets(asked))
        return {partition: found[partition].offset for partition in partitions}

    def _ask(self, doing: str, question: Callable[[Any], Answer]) -> Answer:
        """Put a question to the cluster, again through a new client until `request_timeout_ms` have passed.

        The old one may have lost its connection while idle, and never forgets which broker coordinates a group; and a
        coordinator that is loading (after a broker's start, or the group's first member) says so for a while.
        """
        deadline_s = time.monotonic() + self._settings.request_timeout_ms / 1000
        with translating(doing, self._settings):
            while True:
                try:
                    return question(self._admin())
                except errors.RetriableError:
                    self.close()
                    if time.monotonic() >= deadline_s:
                        raise
                    time.sleep(ASK_AGAIN_S)

    def _admin(self) -> Any:
        with self._lock:
            if self._admin_client is None:
                self._admin_client = open_client(KafkaAdminClient, self._settings, self._settings.common())
            return self._admin_client


def _known(committed: Any) -> int | None:
    """A committed offset; the broker says -1 for none."""
    return None if committed is None or committed.offset < 0 else int(committed.offset)
