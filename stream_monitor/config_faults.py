"""From a YAML file, the environment and pydantic's complaints to faults that say where, what and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from stream_monitor.config_base import REFUSED, Complaint, shown
from stream_monitor.errors import Fault

Location = tuple[str | int, ...]

_DEEPEST = 16
_MOST_LINES = 10_000
_KUBERNETES = re.compile(r"(service_host|service_port(_.+)?|port(_\d+_(tcp|udp|sctp)(_(proto|port|addr))?)?)")
"""Variables that Kubernetes puts into every pod beside a service named `stream-monitor`, less the prefix."""


@dataclass(slots=True)
class Document:
    """A YAML file as read: its values (None if it has none to give), the line of every key, and what is wrong."""

    name: str
    values: dict[str, Any] | None = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def where(self, location: Location) -> str:
        """`file:line` of a key, or of the nearest one around it."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.lines:
                return f"{self.name}:{self.lines[location[:length]]}"
        return self.name


def read_yaml(path: Path) -> Document:
    """Read one mapping; a file that cannot be read, is no YAML or says a key twice is a fault, never an exception."""
    document = Document(str(path), values=None)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        document.faults.append(Fault(str(path), "", f"cannot be read: {reason}", "check the path and its permissions"))
        return document
    except UnicodeDecodeError:
        document.faults.append(Fault(str(path), "", "is not UTF-8 text", "give a YAML file"))
        return document
    try:
        node, values = _parse(text)
    except yaml.MarkedYAMLError as error:  # its own text would quote the line, which may hold a secret
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        document.faults.append(Fault(where, "", f"is not valid YAML: {error.problem}", "correct the syntax"))
        return document
    except (yaml.YAMLError, ValueError, RecursionError):  # control characters, dates that are none, endless nesting
        document.faults.append(Fault(str(path), "", "is not valid YAML", "look for characters that are no text"))
        return document
    if not isinstance(values, dict):
        document.faults.append(Fault(str(path), "", f"holds {shown(values)}, not a mapping", "write `key: value`"))
        return document
    _note_lines(node, (), document)
    document.values = {str(key): value for key, value in values.items()}
    return document


def _parse(text: str) -> tuple[yaml.Node, object]:
    """The nodes of a document, which know their lines, and its values; an empty one is an empty mapping."""
    loader = yaml.SafeLoader(text or "{}")
    try:
        node = loader.get_single_node()
        if node is None:  # comments only
            return yaml.MappingNode("", []), {}
        return node, loader.construct_document(node)
    finally:
        loader.dispose()


def _note_lines(node: yaml.Node, at: Location, document: Document) -> None:
    if len(at) > _DEEPEST or len(document.lines) > _MOST_LINES:  # anchors can make a document endless
        return
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*at, index)] = item.start_mark.line + 1
            _note_lines(item, (*at, index), document)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        location = (*at, str(key.value))
        line = key.start_mark.line + 1
        if location in document.lines:
            problem = f"stands twice, in line {document.lines[location]} and here"
            document.faults.append(Fault(f"{document.name}:{line}", dotted(location), problem, "keep one of them"))
        document.lines[location] = line
        _note_lines(value, location, document)


def dotted(location: Location) -> str:
    """`models[0].match`, as the documentation writes keys.

    >>> dotted(("models", 0, "match"))
    'models[0].match'
    """
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def variables(model: type[BaseModel], prefix: str, at: tuple[str, ...] = ()) -> Iterator[tuple[str, Location]]:
    """Every environment variable that means something, and the key it overrides."""
    for name, info in model.model_fields.items():
        inner = section_of(info)
        if inner is not None:
            yield from variables(inner, prefix, (*at, name))
        else:
            yield prefix + "__".join((*at, name)).upper(), (*at, name)


def section_of(info: FieldInfo) -> type[BaseModel] | None:
    """The section a field holds, if it holds one."""
    kinds = get_args(info.annotation) if get_origin(info.annotation) in (Union, UnionType) else (info.annotation,)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def unknown_variables(names: Iterable[str], known: Iterable[str], prefix: str) -> list[Fault]:
    """Variables with our prefix that override nothing, each with the nearest name that would."""
    known = sorted(known)
    faults = []
    for name in sorted(names):
        upper = name.upper()
        if not upper.startswith(prefix) or upper in known or _KUBERNETES.fullmatch(upper[len(prefix) :].lower()):
            continue
        near = difflib.get_close_matches(upper, known, n=1, cutoff=0.85)
        remedy = f"did you mean {near[0]}?" if near else "remove it; `stream-monitor schema config` lists all keys"
        faults.append(Fault("environment", name, "no such setting", remedy))
    return faults


@dataclass(frozen=True, slots=True)
class Origins:
    """Where values came from: the variables that are set, by the key they override, over the file."""

    document: Document
    overrides: Mapping[Location, str]

    def of(self, location: Location) -> tuple[str, str]:
        """The place and the name under which the user knows a key."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.overrides:
                return "environment", self.overrides[location[:length]]
        return self.document.where(location), dotted(location)


def faults_of(error: ValidationError, model: type[BaseModel], origins: Origins) -> list[Fault]:
    """One fault an error: pydantic's own text would print the values of secrets."""
    details = error.errors(include_url=False)
    return [
        fault
        for detail in details
        for fault in _faults(detail, model, origins)
        if detail["type"] != "extra_forbidden" or detail["loc"] in origins.document.lines  # else an unknown variable
    ]


def _faults(detail: ErrorDetails, model: type[BaseModel], origins: Origins) -> list[Fault]:
    if detail["type"] != REFUSED:
        return [_fault(detail, model, origins)]
    location, _, _ = _locate(detail["loc"], model)
    complaints: list[Complaint] = detail["ctx"]["complaints"]
    return [
        Fault(*origins.of((*location, each.key) if each.key else location), each.problem, each.remedy)
        for each in complaints
    ]


def _fault(detail: ErrorDetails, model: type[BaseModel], origins: Origins) -> Fault:
    location, info, siblings = _locate(detail["loc"], model)
    where, key = origins.of(location)
    if detail["type"] == "extra_forbidden":
        return Fault(where, key, "unknown key", _nearest(str(location[-1]), siblings))
    if detail["type"] == "missing":
        return Fault(where, key, "is missing", "add it")
    secret = info is not None and "Secret" in str(info.annotation)
    problem = "the value cannot be used" if secret else f"{shown(detail['input'])} cannot be used"
    message = detail["msg"].removeprefix("Value error, ").split(", unable to")[0]
    remedy = message[:1].lower() + message[1:]
    default = None if info is None or isinstance(info.default, (tuple, BaseModel)) else info.default
    if default is not None and default is not PydanticUndefined:
        remedy += f"; the default is {default}"
    return Fault(where, key, problem, remedy.replace("input should", "it should"))


def _nearest(key: str, siblings: list[str]) -> str:
    near = difflib.get_close_matches(key, siblings, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known here: {', '.join(siblings)}" if siblings else "remove it"


def _locate(location: Location, model: type[BaseModel]) -> tuple[Location, FieldInfo | None, list[str]]:
    """The key an error speaks of (pydantic appends names of validators), its field, and the keys beside it."""
    at: type[BaseModel] | None = model
    info: FieldInfo | None = None
    siblings: list[str] = []
    for length, part in enumerate(location, start=1):
        if isinstance(part, int) and info is not None:
            at = at or _item_section(info)
            continue
        if at is None:  # a key of a free mapping, as features.types
            return location, info, siblings
        siblings = sorted(at.model_fields)
        info = at.model_fields.get(str(part))
        if info is None:
            return location[:length], None, siblings
        at = section_of(info) or None
    return location, info, siblings


def _item_section(info: FieldInfo) -> type[BaseModel] | None:
    for kind in get_args(info.annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
