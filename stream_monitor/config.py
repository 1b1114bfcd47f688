"""Settings: one YAML file, every value overridable by environment, every fault listed at once.

`load` is the way in. A value is taken from the environment (`STREAM_MONITOR_KAFKA__CLIENT_ID` for `kafka.client_id`),
else from the file, else from the defaults here. Relative paths in the file are relative to the file.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from stream_monitor import config_faults as faults
from stream_monitor.config_base import (
    CONFIG_VARIABLE,
    ENV_PREFIX,
    Complaint,
    ExistingFile,
    ExistingFiles,
    Positive,
    Section,
    parsed,
    refuse,
    refuse_all,
)
from stream_monitor.config_detection import DetectionSettings, ModelSection, ModelSettings
from stream_monitor.config_input import InputSection, LabelsSection
from stream_monitor.config_kafka import KafkaSection
from stream_monitor.errors import ConfigError, Fault
from stream_monitor.wire import NEWEST, OLDEST

__all__ = ["DetectionSettings", "ModelSettings", "Settings", "load"]

_MOST_NAMES = 10_000
SHORTEST_SALT = 16
_FIRST_WINS = "the first match wins: put special entries before general ones, and each only once"
_SERVERS = ("kafka", "bootstrap_servers")
_KAFKA_FILES = {name for name in KafkaSection.model_fields if name.endswith("file")}


def _topic(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or name in {".", ".."}:
        raise refuse(f"{name!r} is no Kafka topic name", "use up to 249 of A-Z a-z 0-9 . _ -")
    return name


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", name):
        raise refuse(f"{name!r} cannot be part of a transactional id", "use up to 200 of A-Z a-z 0-9 . _ -")
    return name


TopicName = Annotated[str, AfterValidator(_topic)]
PlainName = Annotated[str, AfterValidator(_plain_name)]


class Topics(Section):
    """The topics and their shape. Names left out follow from `group`, so that two groups never share them."""

    predictions: TopicName = Field(default="predictions", description="Prediction events, written by your models.")
    labels: TopicName | None = Field(
        default=None, description="Labels that come later than their predictions, joined on the id; null: none."
    )
    alerts: TopicName = Field(default="drift-alerts", description="Where alerts are published; compacted by subject.")
    codes: TopicName = Field(
        default="stream-monitor.codes", description="Between the two stages; default <group>.codes."
    )
    state: TopicName = Field(default="stream-monitor.state", description="Detector state; default <group>.state.")
    references: TopicName = Field(default="stream-monitor.references", description="Default <group>.references.")
    rejects: TopicName = Field(
        default="stream-monitor.rejects", description="Unusable records; default <group>.rejects."
    )
    status: TopicName = Field(
        default="stream-monitor.status", description="How every stream stands; compacted; default <group>.status."
    )
    partitions: int = Field(default=32, ge=1, le=10_000, description="Of codes and of state; fixed for good.")
    replication: int | None = Field(default=None, ge=1, description="null: the broker's default.replication.factor.")
    codes_retention_hours: Positive = Field(default=168, description="How long a detector may be down without loss.")
    rejects_retention_hours: Positive = Field(default=168, description="How long rejected records are kept.")

    OWNED: ClassVar = ("codes", "state", "references", "rejects", "status")

    @model_validator(mode="after")
    def _distinct(self) -> Topics:
        users: dict[str, list[str]] = {}
        for role in ("predictions", "labels", "alerts", *self.OWNED):
            if getattr(self, role) is not None:
                users.setdefault(getattr(self, role), []).append(role)
        refuse_all(
            Complaint(roles[-1], f"{name!r} is the name of {' and '.join(roles)}", "give every topic a name of its own")
            for name, roles in users.items()
            if len(roles) > 1
        )
        return self


class WorkerSection(Section):
    """How the worker paces itself."""

    commit_interval_s: float = Field(default=1.0, gt=0, le=60, description="Between two commits of a stage.")
    state_bytes_per_s: Positive = Field(
        default=5_000_000, description="Budget for saving states that no alert asked for."
    )
    state_interval_s: float = Field(
        default=5.0, ge=0, le=600, description="Rows that no alert asked to save may be in memory alone for so long."
    )
    max_codes_lag: Positive = Field(
        default=20_000, description="Records of codes undetected, kept below this: encoding pauses at half of it."
    )
    max_transaction_bytes: int = Field(
        default=33_554_432, ge=1_048_576, description="Bytes at which a transaction is committed early."
    )
    wire_version: int | None = Field(
        default=None,
        ge=OLDEST,
        le=NEWEST,
        description="Of what is written to codes and state; null: the newest. See docs/upgrading.md.",
    )
    heartbeat_file: Path | None = Field(
        default=None, description="Touched every second; `stream-monitor health` looks how old it is."
    )

    @property
    def writes_version(self) -> int:
        """The wire version of what this worker writes."""
        return self.wire_version or NEWEST


class HttpSection(Section):
    """Metrics and health over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for Kubernetes."""

    host: str = Field(default="0.0.0.0", min_length=1, description="The address to listen at.")
    port: int | None = Field(default=None, ge=0, le=65_535, description="null: not served; 0: any that is free.")


class PrivacySection(Section):
    """What may be written of raw values, to any topic and to the log; see docs/security.md."""

    raw: Literal["full", "hash", "none"] = Field(
        default="full",
        description="hash: texts go by pseudonyms, rejects show a hash; none: and nothing is shown of values that "
        "training never saw, or of rejects.",
    )
    salt: SecretStr | None = Field(
        default=None, description="Of the pseudonyms. Better: salt_file, or the environment."
    )
    salt_file: ExistingFile | None = Field(default=None, description="File that holds the salt and nothing else.")

    @model_validator(mode="after")
    def _salted(self) -> PrivacySection:
        if self.salt and self.salt_file:
            refuse_all([Complaint("salt", "salt_file is given as well", "keep one of them")])
        if self.salt is not None and len(self.salt.get_secret_value()) < SHORTEST_SALT:
            refuse_all([Complaint("salt", f"has fewer than {SHORTEST_SALT} characters", "make it long and random")])
        if self.raw != "full" and not (self.salt or self.salt_file):
            problem = f"{self.raw!r} needs a salt: without one a pseudonym is found by trying"
            refuse_all([Complaint("raw", problem, "add salt_file, or set STREAM_MONITOR_PRIVACY__SALT")])
        return self


class AlertsSection(Section):
    """How alerts present themselves."""

    source: str = Field(default="stream-monitor", min_length=1, description="The CloudEvents source of every alert.")


class LogSection(Section):
    """Logging, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class Settings(BaseSettings):
    """Everything a worker is told. Use `load`, which names every fault with its place and remedy."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        enable_decoding=False,
        env_ignore_empty=True,
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
        title="stream-monitor configuration",
    )

    kafka: KafkaSection = KafkaSection()
    group: PlainName = Field(default="stream-monitor", description="Prefix of consumer groups and transactional ids.")
    instance: PlainName = Field(
        default_factory=socket.gethostname, description="This worker's name within the group; default: the hostname."
    )
    topics: Topics = Topics()
    input: InputSection = InputSection()
    labels: LabelsSection = LabelsSection()
    models: Annotated[tuple[ModelSection, ...], BeforeValidator(parsed)] = Field(
        default=(), description="The first entry that matches a model holds for it."
    )
    detection: DetectionSettings = DetectionSettings()
    worker: WorkerSection = WorkerSection()
    http: HttpSection = HttpSection()
    privacy: PrivacySection = PrivacySection()
    alerts: AlertsSection = AlertsSection()
    references: ExistingFiles = Field(
        default=(), description="Reference files; published at start where the topic has none for their stream."
    )
    log: LogSection = LogSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @model_validator(mode="before")
    @classmethod
    def _topics_follow_group(cls, values: Any) -> Any:
        group, topics = values.get("group"), values.get("topics", {})
        if not isinstance(group, str) or not isinstance(topics, dict):
            return values
        return values | {"topics": {role: f"{group}.{role}" for role in Topics.OWNED} | topics}

    @model_validator(mode="after")
    def _reachable(self) -> Settings:
        refuse_all(
            Complaint("models", f"the entry {entry.match!r} is never used: an earlier one matches first", _FIRST_WINS)
            for index, entry in enumerate(self.models)
            if {entry.match, "*"} & {earlier.match for earlier in self.models[:index]}
        )
        return self

    def named(self, instance: str) -> Settings:
        """These settings for another instance name; raises ConfigError if it cannot be one."""
        try:
            return self.model_copy(update={"instance": _plain_name(instance)})
        except PydanticCustomError as error:
            complaint = (error.context or {})["complaints"][0]
            raise ConfigError([Fault("--instance", "", complaint.problem, complaint.remedy)]) from error

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, without what was resolved from the values before."""
        copy = super().model_copy(update=update, deep=deep)
        for name in ("_by_entry", "_by_name"):
            copy.__dict__.pop(name, None)
        return copy

    @cached_property
    def _by_entry(self) -> dict[int, ModelSettings]:
        return {}

    @cached_property  # not a PrivateAttr: asked for every event, and those take ten times as long
    def _by_name(self) -> dict[str, ModelSettings]:
        return {}

    def consumer_group(self, stage: str) -> str:
        """The group that shares a stage's input."""
        return f"{self.group}-{stage}"

    def transactional_id(self, part: str) -> str:
        """Of one producer of this instance."""
        return f"{self.group}.{self.instance}.{part}"

    def for_model(self, name: str) -> ModelSettings:
        """What holds for one model, all overrides applied; the same object for all models of one entry."""
        found = self._by_name.get(name)
        if found is None:
            if len(self._by_name) >= _MOST_NAMES:  # names come from events
                self._by_name.clear()
            matching = (i for i, entry in enumerate(self.models) if fnmatchcase(name, entry.match))
            found = self._by_name[name] = self._resolve(next(matching, len(self.models)))
        return found

    def joins_labels(self, model: str) -> bool:
        """Whether labels of a model may come on the labels topic."""
        if self.topics.labels is None:
            return False
        fixed, patterns = self.labels.shape.fixed_model, self.labels.models
        if fixed is not None and model != fixed:
            return False
        return patterns == ("*",) or any(fnmatchcase(model, pattern) for pattern in patterns)

    def _resolve(self, index: int) -> ModelSettings:
        if index not in self._by_entry:
            entry = self.models[index] if index < len(self.models) else ModelSection(match="*")
            detection = self.detection.overridden(entry.detection)
            self._by_entry[index] = ModelSettings(
                entry.match, entry.features, entry.segment_by, entry.max_segments, detection
            )
        return self._by_entry[index]


def load(path: Path | None, *, needs_kafka: bool = True) -> Settings:
    """The settings of a file (None: of the environment and the defaults alone).

    Raises ConfigError with all faults: of the file's syntax, unknown keys and variables, and values that cannot be.
    `needs_kafka` False is for what runs without a broker, as a replay.
    """
    document = faults.read_yaml(path) if path else faults.Document("configuration")
    known = dict(faults.variables(Settings, ENV_PREFIX))
    set_names = {name.upper() for name, value in os.environ.items() if value}
    overrides = {at: name for name, at in known.items() if name in set_names}
    found = [*document.faults, *faults.unknown_variables(os.environ, [*known, CONFIG_VARIABLE], ENV_PREFIX)]
    if document.values is None:
        raise ConfigError(found)
    if needs_kafka and not ({_SERVERS} & {*overrides, *document.lines}):
        example = "kafka: {bootstrap_servers: kafka-1:9092}"
        remedy = f"add `{example}`, or set {ENV_PREFIX}KAFKA__BOOTSTRAP_SERVERS"
        found.append(Fault(document.name, faults.dotted(_SERVERS), "is missing", remedy))
    settings: Settings | None = None
    try:
        settings = Settings(**_anchored(document.values, path.parent if path else Path()))
        found += _override_faults(settings, document)
    except ValidationError as error:
        found += faults.faults_of(error, Settings, faults.Origins(document, overrides))
    if found or settings is None:
        raise ConfigError(found)
    return settings


def _override_faults(settings: Settings, document: faults.Document) -> list[Fault]:
    """What only shows once a model's overrides are laid over the common settings."""
    found = []
    for index, entry in enumerate(settings.models):
        try:
            settings.detection.overridden(entry.detection)
        except ValidationError as error:
            inner = faults.faults_of(error, DetectionSettings, faults.Origins(faults.Document(""), {}))
            where = document.where(("models", index, "detection"))
            found += [replace(fault, where=where, key=f"models[{index}].detection.{fault.key}") for fault in inner]
    return found


def _anchored(values: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The values of a file with its relative paths taken from where the file stands."""

    def anchored(path: object) -> object:
        return str(directory / path) if isinstance(path, str) else path

    values = dict(values)
    if isinstance(kafka := values.get("kafka"), dict):
        values["kafka"] = {key: anchored(v) if key in _KAFKA_FILES else v for key, v in kafka.items()}
    if isinstance(worker := values.get("worker"), dict) and "heartbeat_file" in worker:
        values["worker"] = worker | {"heartbeat_file": anchored(worker["heartbeat_file"])}
    if isinstance(files := values.get("references"), list):
        values["references"] = [anchored(file) for file in files]
    return values
