"""What the sections of the configuration share."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

ENV_PREFIX = "STREAM_MONITOR_"
CONFIG_VARIABLE = "STREAM_MONITOR_CONFIG"
"""Names the file; the only variable with our prefix that overrides no value of it."""
REFUSED = "refused"
"""The type of the errors made here."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong with the key (relative to where it is raised; "" is that place itself), and what to do."""

    key: str
    problem: str
    remedy: str


def refuse(problem: str, remedy: str) -> PydanticCustomError:
    """The error for a validator to raise: what is wrong, and what to do about it."""
    return PydanticCustomError(
        REFUSED, "{problem}", {"problem": problem, "complaints": [Complaint("", problem, remedy)]}
    )


def refuse_all(complaints: Iterable[Complaint]) -> None:
    """Raise one error that holds all complaints, if there are any."""
    found = list(complaints)
    if found:
        text = "; ".join(complaint.problem for complaint in found)
        raise PydanticCustomError(REFUSED, "{problem}", {"problem": text, "complaints": found})


def shown(value: object) -> str:
    """A value as a message may quote it: short, and without the password of an address.

    >>> shown("kafka://user:hunter2@host"), shown([1, 2, 3])
    ("'kafka://***@host'", 'a list')
    """
    if isinstance(value, (dict, list, tuple)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None:
        return "null"
    text = repr(re.sub(r"(//)?[^/@\s]+:[^/@\s]+@", r"\1***@", value) if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:76]}…{text[-1]}"


def split(value: object) -> object:
    """A text as the environment gives it → a list: JSON if it looks like it, else separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return parsed(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def parsed(value: object) -> object:
    """A text as the environment gives it → what its JSON says."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise refuse(f"not JSON: {error}", "a list or mapping in the environment is written as JSON") from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise refuse(f"no such file: {str(path)!r}", "give the path of a file that can be read")
    return path


Names = Annotated[tuple[str, ...], BeforeValidator(split, json_schema_input_type=list[str] | str)]
Positive = Annotated[int, Field(ge=1)]
ExistingFile = Annotated[Path, AfterValidator(_existing)]
ExistingFiles = Annotated[tuple[ExistingFile, ...], BeforeValidator(split, json_schema_input_type=list[str] | str)]


class Section(BaseModel):
    """A frozen part of the configuration that knows its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` and `on` as true, which pydantic would take for 1."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise refuse(f"{str(value).lower()} is no number", "give a number")
        return value


class Mirror(Section):
    """A section with the fields and defaults of a frozen dataclass of parameters; see `mirror`."""

    OF: ClassVar[type]

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        self.params()  # what the dataclass itself refuses, as a ValueError
        return self

    def params(self) -> Any:
        """The dataclass, filled."""
        return self.OF(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self.OF)})


def mirror(params: type, **extra: Any) -> type[Mirror]:
    """The section for a frozen dataclass all of whose fields have defaults.

    A number in it has to be positive, or not negative where the default is 0. `extra`: further fields, as
    `create_model` takes them.
    """
    hints = get_type_hints(params)
    fields: dict[str, Any] = {}
    for spec in dataclasses.fields(params):
        default: Any = spec.default
        if hints[spec.name] in (int, float):
            default = Field(default=default, ge=0) if default == 0 else Field(default=default, gt=0)
        fields[spec.name] = (hints[spec.name], default)
    name = params.__name__.removesuffix("Params")
    section = create_model(name, __base__=Mirror, __doc__=params.__doc__, **(extra | fields))
    section.OF = params
    return section
