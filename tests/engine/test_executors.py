"""Where cells run is given in options that fit together, on devices that are there."""

from __future__ import annotations

import importlib.util

import pytest
from typer.testing import CliRunner

from compatbench.cli.app import app
from compatbench.engine.execute.device import available_devices, resolve_device
from compatbench.engine.run import Compute
from compatbench.errors import CompatbenchError


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompatbenchError, match=r"pip install 'compatbench\[ray\]'"):
        Compute("ray").check()


@pytest.mark.parametrize("compute", [Compute(address="auto"), Compute(gpus_per_cell=0.5)])
def test_options_of_ray_are_refused_without_it(compute: Compute) -> None:
    with pytest.raises(CompatbenchError, match="are for '--executor ray'"):
        compute.check()


def test_a_device_that_is_not_here_is_refused_with_those_that_are() -> None:
    for name in ("tpu", "meta", "cuda:99"):
        with pytest.raises(CompatbenchError, match=f"'{name}' cannot be used here; .* auto, cpu"):
            resolve_device(name)
    assert resolve_device("auto") in available_devices()


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--suite", "smoke"],
        ["run", "--suite", "smoke", "--executor", "ray"],
        ["plan", "--suite", "smoke"],
        ["evaluate", "gone", "--backbone", "mini-clip"],
    ],
)
def test_every_command_refuses_a_wrong_device_at_once(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--device", "tpu"])
    assert "--device 'tpu'" in str(result.exception)
