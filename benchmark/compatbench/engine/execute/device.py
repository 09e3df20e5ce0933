"""The devices, cores and memory of this machine."""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress
from pathlib import Path

import torch

from compatbench.errors import CompatbenchError

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
# The kernel's command to forget the peak so far (``man 5 proc_pid_clear_refs``).
_RESET_PEAK = "5"


def available_devices() -> list[str]:
    """The devices that PyTorch can compute on here, such as ``cpu``, ``cuda`` and ``cuda:1``."""
    names = ["cpu"]
    for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        if module.is_available():
            names += [kind, *(f"{kind}:{number}" for number in range(module.device_count()))]
    return [*names, *(["mps"] if torch.backends.mps.is_available() else [])]


def resolve_device(name: str) -> str:
    """The device that a name means; ``auto`` is a GPU if there is one."""
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


class PeakMemory:
    """Measures the most memory that one cell after the other takes in this process.

    On a GPU it is the memory of tensors there. Elsewhere it is the resident memory of the
    process, the backbones and features that it keeps at hand included; only Linux tells.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._known = False

    def reset(self) -> None:
        """Forgets the peak so far."""
        if self._device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self._device)
            self._known = True
        elif self._device == "cpu":
            # What earlier cells have freed would count as this one's.
            with suppress(AttributeError, OSError, TypeError):  # where there is no glibc
                ctypes.CDLL(None).malloc_trim(0)
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
                self._known = True

    def read(self) -> int | None:
        """Bytes at the peak since the last reset; None if they are not known."""
        if not self._known:
            return None
        if self._device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self._device)
        found = _PEAK.search(Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else None
