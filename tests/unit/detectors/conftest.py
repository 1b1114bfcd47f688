"""Reference shapes that every detector is tested on."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.detectors.shapes import SHAPES, Shape


@pytest.fixture(params=sorted(SHAPES))
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param]()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_260_301)
