"""The topics as they should be, and how those found differ. Pure.

predictions  written by the users, as are labels; created only on demand
codes        between the stages; kept for days, no byte limit, so that lag never becomes loss
state        compacted, small segments and eager cleaning, so that a restore stays short
references   compacted; one record a stream and epoch, up to a whole reference document
alerts       compacted by subject: a new subscriber reads the present state of everything
rejects      kept for days
status       compacted; how every stream stands, for people
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream_monitor.broker.protocol import TopicInfo, TopicSpec
from stream_monitor.config import Settings
from stream_monitor.config_kafka import LARGEST_RECORD_BYTES

HOUR_MS = 3_600_000
_COMPACTED = {"cleanup.policy": "compact", "segment.bytes": str(64 * 1024 * 1024), "min.cleanable.dirty.ratio": "0.1"}


@dataclass(frozen=True, slots=True)
class FixedSpec(TopicSpec):
    """A topic whose number of partitions must be exactly this: a model's rows and state are found by it."""


def _kept(hours: int) -> dict[str, str]:
    """Retention counted from the time of writing: an event may be dated years ago."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(hours * HOUR_MS),
        "retention.bytes": "-1",
        "message.timestamp.type": "LogAppendTime",
    }


def specs(settings: Settings, *, predictions: int | None = None) -> list[TopicSpec]:
    """Every topic that is ours, in the order to create them; `predictions` partitions adds the input topics."""
    topics = settings.topics
    names = inputs(settings).values()
    by_hand = [TopicSpec(name, predictions, {}, topics.replication) for name in names] if predictions else []
    codes = _kept(topics.codes_retention_hours)
    single = {
        topics.references: _COMPACTED | {"max.message.bytes": str(LARGEST_RECORD_BYTES)},
        topics.alerts: _COMPACTED,
        topics.rejects: _kept(topics.rejects_retention_hours),
        topics.status: _COMPACTED,
    }
    return [
        *by_hand,
        FixedSpec(topics.codes, topics.partitions, codes, topics.replication),
        FixedSpec(topics.state, topics.partitions, _COMPACTED, topics.replication),
        *(TopicSpec(name, 1, configs, topics.replication) for name, configs in single.items()),
    ]


def inputs(settings: Settings) -> dict[str, str]:
    """The topics that others write, by their role: a key of the section `topics`."""
    topics = settings.topics
    return {"predictions": topics.predictions} | ({"labels": topics.labels} if topics.labels else {})


def missing_inputs(settings: Settings, found: Mapping[str, TopicInfo]) -> list[str]:
    """Which of them are not there; each text says what to do."""
    return [
        f"topic {name!r} (topics.{role}) does not exist: name the one that is written to, or create it "
        "(`stream-monitor topics create --with-predictions N`)"
        for role, name in inputs(settings).items()
        if name not in found
    ]


def rights(settings: Settings) -> dict[str, frozenset[str]]:
    """What a worker must be allowed to do with each topic, in the words of ACLs; docs/security.md has it as well."""
    topics = settings.topics
    read, write, look = "READ", "WRITE", "DESCRIBE_CONFIGS"
    return {
        **dict.fromkeys(inputs(settings).values(), frozenset({read})),
        **dict.fromkeys((topics.codes, topics.state, topics.references), frozenset({read, write, look})),
        **dict.fromkeys((topics.alerts, topics.rejects, topics.status), frozenset({write, look})),
    }


def refusals(rights: Mapping[str, frozenset[str]], found: Mapping[str, TopicInfo]) -> list[str]:
    """What of the rights is not given; a broker that does not tell is taken to allow everything."""
    problems = []
    for name, wanted in rights.items():
        allowed = found[name].allowed if name in found else None
        if allowed is not None and wanted - allowed:
            missing = ", ".join(_written(operation) for operation in sorted(wanted - allowed))
            problems.append(f"topic {name!r}: this user has no ACL that allows {missing}; docs/security.md lists all")
    return problems


def _written(operation: str) -> str:
    """
    >>> _written("DESCRIBE_CONFIGS")
    'DescribeConfigs'
    """
    return operation.title().replace("_", "")


def mismatches(specs: Sequence[TopicSpec], found: Mapping[str, TopicInfo]) -> list[str]:
    """Why a worker must not start on the topics found; each text says what to do. Empty: all is well."""
    problems = []
    for spec in specs:
        info = found.get(spec.name)
        if info is None:
            problems.append(f"topic {spec.name!r} is missing: run `stream-monitor topics create`")
        else:
            problems += _differences(spec, info)
    return problems


def _differences(spec: TopicSpec, info: TopicInfo) -> list[str]:
    problems = []
    if isinstance(spec, FixedSpec) and info.partitions != spec.partitions:
        problems.append(
            f"topic {spec.name!r} has {info.partitions} partitions, topics.partitions says {spec.partitions}: "
            f"set topics.partitions to {info.partitions}, or set another `group` to start afresh with new topics"
        )
    wanted, policy = spec.settings.get("cleanup.policy"), info.settings.get("cleanup.policy")
    if wanted and policy and policy != wanted:
        problems.append(
            f"topic {spec.name!r} has cleanup.policy={policy}, which would lose data: "
            f"alter it to cleanup.policy={wanted} (kafka-configs.sh --alter --entity-type topics "
            f"--entity-name {spec.name} --add-config cleanup.policy={wanted})"
        )
    return problems
