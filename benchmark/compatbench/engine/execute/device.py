"""The devices and cores of this machine."""

from __future__ import annotations

import os

import torch

from compatbench.errors import CompatbenchError


def available_devices() -> list[str]:
    """The devices that PyTorch can compute on here, such as ``cpu``, ``cuda`` and ``cuda:1``."""
    names = ["cpu"]
    for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        if module.is_available():
            names += [kind, *(f"{kind}:{number}" for number in range(module.device_count()))]
    return [*names, *(["mps"] if torch.backends.mps.is_available() else [])]


def resolve_device(name: str) -> str:
    """The device that a name means; ``auto`` is a GPU if there is one.

    Raises:
        CompatbenchError: there is no such device here.
    """
    here = available_devices()
    if name == "auto":
        return "cuda" if "cuda" in here else "cpu"
    if name not in here:
        choices = ", ".join(["auto", *here])
        raise CompatbenchError(f"--device '{name}' cannot be used here; choose from {choices}")
    return name


def count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
