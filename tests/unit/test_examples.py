"""The examples in the docstrings hold."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("binning", "cells", "dependence", "encode", "events", "features")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"stream_monitor.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
