"""Where cells run is said in options that fit together."""

from __future__ import annotations

import importlib.util

import pytest

from compatbench.cli.executors import Executor, RayOptions, open_executor
from compatbench.errors import CompatbenchError


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(CompatbenchError, match=r"pip install 'compatbench\[ray\]'"),
        open_executor(Executor.ray, RayOptions(), "cpu", 1, None, {}),
    ):
        pass


@pytest.mark.parametrize("options", [RayOptions(address="auto"), RayOptions(gpus_per_cell=0.5)])
def test_options_of_ray_are_refused_without_it(options: RayOptions) -> None:
    with (
        pytest.raises(CompatbenchError, match="are for '--executor ray'"),
        open_executor(Executor.local, options, "cpu", 1, None, {}),
    ):
        pass


def test_a_local_executor_has_the_jobs_that_it_was_given() -> None:
    with open_executor(Executor.local, RayOptions(), "cpu", 1, 3, {}) as place:
        assert (place.device, place.jobs) == ("cpu", 3)
