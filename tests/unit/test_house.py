"""The walls of the house: who may import what."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import stream_monitor

ROOT = Path(stream_monitor.__file__).parent
PURE = (
    "alerts", "alignment", "association", "baseline", "batch", "bets", "binning", "book", "cells", "codes", "coding",
    "collected", "compare", "dependence", "discover", "display", "draft", "encode", "encoder", "estimate",
    "evaluate_outcomes", "evaluation", "events", "features", "fit", "fit_segments", "gaps", "guards", "heavy", "held",
    "incident_state", "incidents", "inject", "labels", "lane", "learn", "lifecycle", "limits", "merge", "model",
    "model_state", "monitor", "ordering", "outcome_levels", "outcome_relations", "outcomes", "outside", "packed",
    "performance", "privacy", "reference", "reference_checks", "relations", "rows", "say", "scoring",
    "scoring_state", "season", "segmented", "segments", "show", "signatures", "silence", "state", "state_records",
    "stream", "streams", "summary", "tally", "telling", "topics", "trail", "waiting", "wire",
)  # fmt: skip
WORLDLY = {
    "asyncio", "kafka", "logging", "os", "pathlib", "random", "requests", "select", "socket", "structlog",
    "subprocess", "threading", "time", "urllib",
}  # fmt: skip
FORBIDDEN_EVERYWHERE = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}


def imports_of(path: Path) -> set[str]:
    """The top-level names a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_know_nothing_of_the_world(name: str) -> None:
    assert not imports_of(ROOT / f"{name}.py") & WORLDLY


@pytest.mark.parametrize("path", sorted((ROOT / "detectors").glob("*.py")), ids=lambda path: path.name)
def test_detectors_are_pure(path: Path) -> None:
    assert not imports_of(path) & WORLDLY


def test_kafka_is_imported_by_its_adapter_alone() -> None:
    users = {path.relative_to(ROOT).parts[:2] for path in modules() if "kafka" in imports_of(path)}
    assert users == {("broker", "kafka")}


def test_river_is_imported_by_the_detectors_alone() -> None:
    users = {path.relative_to(ROOT).parts[0] for path in modules() if "river" in imports_of(path)}
    assert users == {"detectors"}


def test_nothing_can_unpickle() -> None:
    assert not [path.name for path in modules() if imports_of(path) & FORBIDDEN_EVERYWHERE]
