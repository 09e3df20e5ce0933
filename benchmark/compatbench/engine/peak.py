"""The most memory that a cell takes, as the system or the GPU's allocator counts it."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
# The kernel's command to forget the peak so far (``man 5 proc_pid_clear_refs``).
_RESET_PEAK = "5"


class PeakMemory:
    """Measures the peak of one cell after the other in this process.

    On a GPU it is the memory of tensors there. Elsewhere it is the resident memory of the
    process, the backbones and features that it keeps at hand included; only Linux tells.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._known = False

    def reset(self) -> None:
        """Forgets the peak so far."""
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
            self._known = True
            return
        _return_freed_memory()
        try:
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
            self._known = self._device == "cpu"
        except OSError:
            self._known = False

    def read(self) -> int | None:
        """Bytes at the peak since the last reset; None if they are not known."""
        if not self._known:
            return None
        if self._device.startswith("cuda"):
            import torch

            return torch.cuda.max_memory_allocated(self._device)
        found = _PEAK.search(Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else None


def _return_freed_memory() -> None:
    """Gives back what earlier cells have freed, which would count as this one's."""
    with suppress(AttributeError, OSError, TypeError):  # where there is no glibc
        ctypes.CDLL(None).malloc_trim(0)
