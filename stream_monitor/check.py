"""Checking a configuration and its references, alone and against each other, without a broker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stream_monitor.config import Settings, load
from stream_monitor.config_detection import ModelSettings
from stream_monitor.errors import ConfigError, Fault, ReferenceInvalid
from stream_monitor.features import feature_of
from stream_monitor.reference import Reference, Role
from stream_monitor.reference_checks import load as load_reference

CONFIG_SUFFIXES = {".yaml", ".yml"}
GLOB = frozenset("*?[")

Named = tuple[Path, Reference]


def check(paths: Sequence[Path]) -> list[Fault]:
    """All faults of the files: configurations (.yaml, .yml) and references (any other).

    A reference has to fit every configuration given here, and each configuration the references that it names itself.
    """
    configs = [path for path in paths if path.suffix in CONFIG_SUFFIXES]
    faults: list[Fault] = []
    given = list(_readable([path for path in paths if path not in configs], faults))
    faults += _twice(given)
    for path in configs:
        faults += check_config(path, given)
    return faults


def check_config(path: Path | None, references: Sequence[Named] = ()) -> list[Fault]:
    """All faults of one configuration (None: of the environment alone), its references and how they fit."""
    try:
        settings = load(path)
    except ConfigError as error:
        return list(error.faults)
    faults: list[Fault] = []
    own = list(_readable(settings.references, faults))
    faults += _twice(own)
    for file, reference in [*own, *references]:
        faults += fit_faults(settings, file, reference)
    return faults


def fit_faults(settings: Settings, file: Path, reference: Reference) -> list[Fault]:
    """Why a reference would not be used as it is, or not at all, under these settings."""
    model = settings.for_model(reference.model)
    return [*_never_used(settings, model, file, reference), *_column_faults(model, file, reference)]


def _readable(paths: Sequence[Path], faults: list[Fault]) -> Iterator[Named]:
    for path in paths:
        try:
            yield path, load_reference(path.read_bytes(), name=str(path))
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
            faults.append(Fault(str(path), "", problem, "check the path and its permissions"))
        except ReferenceInvalid as error:
            for line in str(error).splitlines():
                problem = line.removeprefix(f"{path}: ")
                faults.append(Fault(str(path), "", problem, "build it again: `stream-monitor reference build`"))


def _twice(references: Sequence[Named]) -> list[Fault]:
    seen: dict[tuple[str, str, str], Path] = {}
    faults = []
    for path, reference in references:
        first = seen.setdefault(reference.stream, path)
        if first != path:
            problem = f"is for {reference.stream}, and so is {first}"
            faults.append(Fault(str(path), "", problem, "keep one reference a stream"))
    return faults


def _never_used(settings: Settings, model: ModelSettings, file: Path, reference: Reference) -> Iterator[Fault]:
    shape, where = settings.input.shape, str(file)
    rebuild = "build it again with the options that fit, or correct the configuration"
    if shape.fixed_model and reference.model != shape.fixed_model:
        problem = f"{reference.model!r} never occurs: input.shape.fixed_model is {shape.fixed_model!r}"
        yield Fault(where, "model", problem, rebuild)
    if shape.fixed_version and reference.version not in ("", shape.fixed_version):
        problem = f"{reference.version!r} never occurs: input.shape.fixed_version is {shape.fixed_version!r}"
        yield Fault(where, "version", problem, rebuild)
    names = ",".join(model.segment_by)
    if model.segment_by and reference.segment:
        problem = f"{reference.segment!r} never occurs: segment_by of {model.match!r} makes parts of one stream"
        yield Fault(where, "segment", problem, f"build it with --segment-by {names}, without --segment")
    elif model.segment_by and [*model.segment_by] != (reference.segment_by or []):
        has = ",".join(reference.segment_by or []) or "none"
        problem = f"has segments by {has}, segment_by of {model.match!r} asks for {names}"
        yield Fault(where, "segments", problem, f"build it with --segment-by {names}")
    if not model.segment_by and reference.segment and shape.segment is None:
        problem = f"{reference.segment!r} never occurs: neither segment_by nor input.shape.segment is set"
        yield Fault(where, "segment", problem, rebuild)


def _column_faults(model: ModelSettings, file: Path, reference: Reference) -> Iterator[Fault]:
    columns = {feature_of(c.name): c for c in reference.columns if c.role is Role.INPUT}
    entry, where = f"the models entry {model.match!r}", str(file)
    for name, column in columns.items():
        if not model.features.watches(name):
            yield Fault(where, name, f"is watched here, but {entry} leaves it out", "build the reference again")
        kind = model.features.kinds().get(name, column.kind)
        if kind is not column.kind:
            yield Fault(where, name, f"is {column.kind} here, {kind} in {entry}", "build the reference again")
    wanted = {*model.features.types, *(name for name in model.features.include or () if not GLOB & set(name))}
    for name in sorted(wanted - columns.keys() - reference.skipped.keys()):
        remedy = "correct the name, or build the reference from data that has it"
        yield Fault(where, name, f"{entry} names it, but this reference has no such column", remedy)
