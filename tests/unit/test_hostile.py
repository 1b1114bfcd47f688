"""Nothing that the topics can hold is executed, swells or brings the worker down; nothing of ours could execute it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stream_monitor

ROOT = Path(stream_monitor.__file__).parent
REPOSITORY = ROOT.parent
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "codeop", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {"unsafe_load", "full_load", "loads_pickle", "from_pickle"}


@pytest.mark.parametrize("seed", range(2))
def test_hostile_records_of_the_three_topics_execute_nothing_and_stay_small(seed: int) -> None:
    command = [sys.executable, "-m", "tests.unit.hostile", str(seed), "150"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "state lost" in done.stdout


def test_the_hook_of_that_test_does_strike() -> None:
    script = "from tests.unit.hostile import forbid\nimport pickle\nforbid()\npickle.loads(b'cposix\\nsystem\\n.')"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "pickle.find_class" in done.stdout


def test_no_module_of_the_package_can_execute_data() -> None:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names) if {each.name.split(".")[0] for each in names} & MODULES:
                    found.append((path.name, node.lineno, "import"))
                case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                    found.append((path.name, node.lineno, "import"))
                case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                    found.append((path.name, node.lineno, name))
                case ast.Call(func=ast.Attribute(attr=name)) if name in METHODS:
                    found.append((path.name, node.lineno, name))
                case ast.keyword(arg="allow_pickle"):
                    found.append((path.name, node.value.lineno, "allow_pickle"))
    assert found == []
