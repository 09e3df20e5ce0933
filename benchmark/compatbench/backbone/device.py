"""Devices: list them, wait for them, and measure the bytes that a computation takes on them."""

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

PROBE = 4  # images that are encoded to measure the bytes of one
MAX_IMAGES = 512  # images that are encoded together; more are not faster

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
# The kernel's command to forget the peak so far (``man 5 proc_pid_clear_refs``).
_RESET_PEAK = "5"


def available_devices() -> list[str]:
    """Return the devices that PyTorch can compute on here, such as ``cpu`` and ``cuda:1``."""
    names = ["cpu"]
    registered = torch._C._get_privateuse1_backend_name()  # the device of another package, if any
    for kind in ("cuda", "xpu", registered):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            names.append(kind)
            names += [f"{kind}:{number}" for number in range(module.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def resolve_device(name: str) -> str:
    """Return the device of a name; ``auto`` is a GPU if there is one.

    Raises:
        CompatbenchError: there is no such device on this machine.
    """
    available = available_devices()
    if name == "auto":
        return "cuda" if "cuda" in available else "cpu"
    if name not in available:
        choices = ", ".join(["auto", *available])
        raise CompatbenchError(f"--device '{name}' cannot be used here; choose from {choices}")
    return name


def wait_for(device: str | torch.device) -> None:
    """Wait until a device has finished all work that it was given; read clocks only then."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """A meter of the peak memory of one cell after another in this process.

    On a GPU it measures the memory of tensors there. On a processor it measures the resident
    memory of the process, including the backbones and features that it keeps; only Linux
    reports that.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._known = False

    def reset(self) -> None:
        """Forget the peak so far."""
        if self._device.startswith("cuda"):
            torch.cuda.init()  # a new process has not initialised the device yet
            torch.cuda.reset_peak_memory_stats(self._device)
            self._known = True
        elif self._device == "cpu":
            # Return the memory that earlier cells have freed, so that it does not count here.
            with suppress(AttributeError, OSError, TypeError):  # systems without glibc
                ctypes.CDLL(None).malloc_trim(0)
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
                self._known = True

    def read(self) -> int | None:
        """Return the bytes at the peak since the last reset; None if they are unknown."""
        if not self._known:
            return None
        if self._device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self._device)
        line = _PEAK.search(Path("/proc/self/status").read_text())
        if line is None:
            return None
        kilobytes = int(line[1])
        return kilobytes * 1024


class PeakBytes(TorchDispatchMode):
    """A context that counts the bytes of all tensors made within it; ``peak`` is their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._held: set[int] = set()  # ids of the storages that are counted now

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        # A view of an input shares its storage, so it takes no memory.
        inputs = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if _has_storage(x)}
        for tensor in filter(_has_storage, tree_leaves(output)):
            storage = tensor.untyped_storage()
            identity = id(storage)
            if identity not in inputs and identity not in self._held:
                self._held.add(identity)
                self._now += storage.nbytes()
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._free, identity, storage.nbytes())
        return output

    def _free(self, identity: int, size: int) -> None:
        self._held.discard(identity)
        self._now -= size


def _has_storage(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def fit_batch(
    compute: Callable[[int], object], room: float, limit: int = MAX_IMAGES, probe: int = PROBE
) -> int:
    """Return how many images fit into ``room`` bytes: ``limit``, or a smaller power of two.

    Args:
        compute: computes this many images.
        room: bytes that are available.
        limit: the largest number of images.
        probe: the number of images that are computed to measure the bytes of one.
    """
    with PeakBytes() as counted:
        compute(probe)
    image_bytes = max(counted.peak / probe, 1)
    fits = max(int(room / image_bytes), 1)
    if fits >= limit:
        return limit
    return 1 << (fits.bit_length() - 1)
