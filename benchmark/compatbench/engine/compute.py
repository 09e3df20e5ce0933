"""The options that decide where and how cells are run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import Literal

from compatbench.backbone.device import available_devices, resolve_device
from compatbench.errors import CompatbenchError
from compatbench.files.processes import count_cores

_COUNTS = ("jobs", "jobs_per_gpu", "threads", "decoders")


@dataclass(frozen=True)
class Compute:
    """The options that decide where and how cells are run.

    Attributes:
        executor: ``local`` runs cells in processes on this machine, ``ray`` on a Ray cluster.
            ``here`` plans and runs them in this process, one after another, so that a debugger
            stops in the code of a method; there is no timeout or retry.
        device: ``auto`` (a GPU, if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``. For the
            cells of a suite also ``cuda:all``, which starts workers on every card.
        jobs: number of workers; by default one per core, one on a GPU, and on Ray all that fit.
        jobs_per_gpu: number of workers on each GPU, instead of ``jobs``; by default 1.
        threads: number of threads of each worker.
        decoders: number of processes of each worker that decode images (threads where there are
            few images). By default one on processors, whose backbones take longer than any image,
            and for GPUs the worker's share of the cores.
        memory_budget: maximum bytes that each tower of a worker keeps for a backward pass, and for
            the images that are classified at once. By default half of the free memory (4 GiB for
            image towers on a processor), and 1 GiB. With less, the run is slower: activations are
            computed again, and images run in micro-batches.
        cache_limit: maximum bytes of disk for image features and tokens. Those unused longest are
            deleted, and tokens that do not fit are computed whenever they are needed.
        timeout: maximum seconds of an attempt at a cell, without the encoding of its images. An
            attempt that takes longer is ended; it becomes a failed row, and other cells continue.
        retry: how often to retry a cell that fails.
        address: the Ray cluster, ``HOST:PORT``; ``auto`` is the one that this machine belongs to.
            By default ``RAY_ADDRESS``, or this machine alone.
        gpus_per_cell: GPUs of each worker on Ray; with 0.25, four share one. By default 1, and
            none with the device ``cpu``.
    """

    executor: Literal["local", "ray", "here"] = "local"
    device: str = "auto"
    jobs: int | None = None
    jobs_per_gpu: int | None = None
    threads: int = 1
    decoders: int | None = None
    memory_budget: int | None = None
    cache_limit: int | None = None
    timeout: float | None = None
    retry: int = 0
    address: str | None = None
    gpus_per_cell: float | None = None

    def __post_init__(self) -> None:
        share = self.gpus_per_cell or 0
        rules = {
            "executor": (self.executor in ("local", "ray", "here"), "choose from local, ray, here"),
            "retry": (self.retry >= 0, "give a number of at least 0"),
            "gpus_per_cell": (
                0 <= share <= 1 or (share > 1 and share % 1 == 0),
                "give a part of one GPU, such as 0.25, or a whole number",
            ),
        }
        for name in _COUNTS:
            value = getattr(self, name)
            rules[name] = (value is None or value >= 1, "give a number of at least 1")
        for name in ("memory_budget", "cache_limit", "timeout"):
            value = getattr(self, name)
            rules[name] = (value is None or value > 0, "give a number above 0")
        for name, (is_allowed, rule) in rules.items():
            if not is_allowed:
                raise CompatbenchError(f"{name} {getattr(self, name)!r}: {rule}")
        if self.jobs is not None and self.jobs_per_gpu is not None:
            raise CompatbenchError("--jobs and --jobs-per-gpu both count workers; give one")
        if self.executor == "here" and (self.timeout or self.retry):
            raise CompatbenchError(
                "executor 'here' cannot end or replace this process; leave out timeout and retry"
            )

    def check(self) -> None:
        """Raise CompatbenchError if this machine lacks anything that the options need."""
        if self.executor == "ray":
            self._check_ray()
        else:
            self._check_local()

    def _check_local(self) -> None:
        if self.list_devices() == ["cpu"] and self.jobs_per_gpu is not None:
            raise CompatbenchError("--jobs-per-gpu is for GPUs, and there is none; give --jobs")
        if self.address is not None or self.gpus_per_cell is not None:
            raise CompatbenchError(
                "--address and --gpus-per-cell are for '--executor ray'; give that, too"
            )

    def _check_ray(self) -> None:
        if self.jobs_per_gpu is not None:
            raise CompatbenchError("--jobs-per-gpu is for this machine; on Ray, --gpus-per-cell")
        if self.device not in ("auto", "cpu", "cuda"):
            raise CompatbenchError(
                f"--device '{self.device}': Ray gives every worker a device of its own; choose "
                "auto, cpu or cuda"
            )
        if importlib.util.find_spec("ray") is None:
            raise CompatbenchError(
                "--executor ray needs Ray, which is not installed: pip install 'compatbench[ray]'"
            )

    def count_workers(self) -> int:
        """Return the number of workers on this machine."""
        if self.executor == "here":
            return 1
        if self.jobs is not None:
            return self.jobs
        devices = self.list_devices()
        if devices == ["cpu"]:
            return count_cores()
        return len(devices) * (self.jobs_per_gpu or 1)

    def list_devices(self) -> list[str]:
        """Return the devices of this machine that workers are spread over."""
        kind, _, number = self.device.partition(":")
        cards = [name for name in available_devices() if name.startswith(f"{kind}:")]
        if number == "all" and cards:
            return cards
        return [resolve_device(self.device)]

    def count_decoders(self) -> int:
        """Return the number of processes or threads with which a worker decodes images."""
        if self.decoders is not None:
            return self.decoders
        if self.executor == "ray":
            return self.threads  # the cores that it was given
        if self.list_devices() == ["cpu"]:
            return 1
        return max(count_cores() // self.count_workers(), 1)

    def on(self, device: str) -> Compute:
        """Return the options of one worker, which computes on this device."""
        return replace(self, device=device, decoders=self.count_decoders())
