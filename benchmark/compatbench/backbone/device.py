"""Devices: which are here, when they are done, and how many bytes a computation takes on them."""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compatbench.errors import CompatbenchError

PROBE = 4  # images whose encoding tells what an image takes
MOST = 512  # images that are encoded together; more gain no speed

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
# The kernel's command to forget the peak so far (``man 5 proc_pid_clear_refs``).
_RESET_PEAK = "5"


def available_devices() -> list[str]:
    """The devices that PyTorch can compute on here, such as ``cpu``, ``cuda`` and ``cuda:1``."""
    names = ["cpu"]
    registered = torch._C._get_privateuse1_backend_name()  # of a package of its own
    for kind in ("cuda", "xpu", registered):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
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


def wait_for(device: str | torch.device) -> None:
    """Waits until a device has computed what it was given: only then may a clock be read."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


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
            torch.cuda.init()  # a new process knows no device before
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
        line = _PEAK.search(Path("/proc/self/status").read_text())
        return int(line[1]) * 1024 if line else None


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within it; ``most`` were in use at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._held: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        # What is made of a tensor without a copy takes nothing.
        inputs = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if _holds(x)}
        for tensor in filter(_holds, tree_leaves(output)):
            storage = tensor.untyped_storage()
            if (name := id(storage)) not in inputs | self._held:
                self._held.add(name)
                self._now += storage.nbytes()
                self.most = max(self.most, self._now)
                weakref.finalize(storage, self._free, name, storage.nbytes())
        return output

    def _free(self, name: int, size: int) -> None:
        self._held.discard(name)
        self._now -= size


def _holds(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def fit_batch(
    compute: Callable[[int], object], room: float, most: int = MOST, probe: int = PROBE
) -> int:
    """How many images fit into so many bytes: ``most``, or a power of two.

    What an image takes is measured with a few, ``probe``.
    """
    with PeakBytes() as peak:
        compute(probe)
    fits = max(int(room / max(peak.most / probe, 1)), 1)
    return most if most <= fits else 1 << (fits.bit_length() - 1)
