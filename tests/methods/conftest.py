"""Few-shot data of the methods' tests."""

from __future__ import annotations

from functools import partial

import pytest
from tiny_models import MakeData

from compatbench.backbone import Backbone, Labels


@pytest.fixture(scope="session")
def few(clip64: Backbone, labels: Labels, make_data: MakeData) -> MakeData:
    """Makes few-shot data on the source, in double precision."""
    return partial(make_data, clip64, labels)
