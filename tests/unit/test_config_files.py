"""The files in config/ are complete, true and free of faults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stream_monitor import config_faults
from stream_monitor.check import check
from stream_monitor.config import Settings, load
from stream_monitor.config_base import ENV_PREFIX

CONFIG = Path(__file__).parents[2] / "config"
FILES = sorted(CONFIG.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_free_of_faults(path: Path) -> None:
    assert check([path]) == []


def test_the_full_file_shows_every_setting() -> None:
    shown = config_faults.read_yaml(CONFIG / "monitor.yaml").lines
    missing = [at for _, at in config_faults.variables(Settings, ENV_PREFIX) if at not in shown]
    assert missing == [("instance",)], "shown as a comment: its default is the hostname"


def test_the_full_file_shows_the_defaults() -> None:
    assert load(CONFIG / "monitor.yaml") == load(CONFIG / "minimal.yaml")


def test_the_example_in_the_full_file_works(tmp_path: Path) -> None:
    lines = (CONFIG / "monitor.yaml").read_text(encoding="utf-8").splitlines()
    first = lines.index("# models:")
    last = next(i for i, line in enumerate(lines[first:], start=first) if not line)
    example = tmp_path / "example.yaml"
    example.write_text("\n".join(line[2:] for line in lines[first:last]), encoding="utf-8")
    settings = load(example, needs_kafka=False)
    credit = settings.for_model("credit-risk")
    assert credit.segment_by == ("region", "plan")
    assert credit.detection.budget_events == 10_000_000
    assert not credit.features.watches("debug.trace")


def test_nothing_can_be_set_that_nothing_uses() -> None:
    """Parameters of the client, the detectors and the shape are handed on whole, `models` is resolved by Settings."""
    handed_on = {"kafka", "detectors", "lifecycle", "shape", "limits", "models"}
    modules = Path(config_faults.__file__).parent.rglob("*.py")
    code = "\n".join(path.read_text(encoding="utf-8") for path in modules if not path.name.startswith("config"))
    named = [at for _, at in config_faults.variables(Settings, ENV_PREFIX) if not handed_on & set(at)]
    assert len(named) > 20
    assert [at for at in named if not re.search(rf"\.{at[-1]}\b", code)] == []
