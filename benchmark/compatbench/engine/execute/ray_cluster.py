"""A Ray cluster: connecting to it, what a worker takes of it, and whether its nodes agree.

Store and cache are folders, so every node must see them on one file system under one path; and a
cell's key names versions of the code, so every node must run the driver's.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from compatbench.engine.cell import Cell
from compatbench.engine.execute.settings import Settings
from compatbench.engine.worker import find_method
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.method.identity import method_identity

REACH_SECONDS = 5.0

# Variables that mean the same to workers as to the driver. Not tokens: Ray shows variables to
# everyone who may look at the cluster.
INHERITED = (
    "COMPATBENCH_",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HUGGINGFACE_HUB_CACHE",
    "XDG_CACHE_HOME",
)
# How a client of HTTP/2, which Ray speaks, begins: a preface and empty settings.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


@contextmanager
def connect(address: str | None = None, threads: int = 1) -> Iterator[None]:
    """Connects to a Ray cluster, for the time of a run.

    Args:
        address: ``HOST:PORT``, or ``auto`` for the cluster that this machine belongs to; None is
            ``RAY_ADDRESS``, or a cluster of this machine alone, which ends with the run.
        threads: of every worker.
    """
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where.startswith("ray://"):
        raise CompatbenchError(
            f"--address '{where}': Ray Client is not supported; run the command on a machine of "
            "the cluster, with '--address auto', or hand it to 'ray job submit'"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    inherited = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
    try:
        _check_reachable(where)
        ray.init(
            where,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if where == "local" else None,
            # BLAS reads its thread count when it is loaded, before any of our code runs.
            runtime_env={"env_vars": {**inherited, "OMP_NUM_THREADS": str(threads)}},
        )
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        text = (getattr(error, "strerror", "") or str(error)).strip() or type(error).__name__
        raise CompatbenchError(
            f"cannot use the Ray cluster '{where}': {text.splitlines()[0].rstrip('.')}; start one "
            "with 'ray start --head', or leave out --address and RAY_ADDRESS to use this machine "
            "alone; if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(where: str) -> None:
    """Finds out in seconds what Ray tries for minutes, writing pages of messages.

    Raises:
        OSError: no cluster listens at this address.
        OverflowError, ValueError: its end is not the number of a port.
    """
    host, colon, port = where.rpartition(":")
    if not colon:
        return
    with socket.create_connection((host, int(port)), REACH_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("0", "false"):
            return
        connection.sendall(_HELLO)
        if connection.recv(4)[3:] != b"\x04":  # settings, too
            raise OSError(0, "what listens there is not Ray")


@dataclass(frozen=True)
class Share:
    """What a worker takes of its node.

    Attributes:
        gpus: a whole number, or a part of one GPU.
        cpus: cores, as many as it has threads.
    """

    gpus: float
    cpus: int

    def fit_into(self, gpus: float, cpus: float) -> int:
        """How many workers these resources hold."""
        fits = int(cpus // self.cpus)
        if self.gpus == 0:
            return fits
        # A worker's part is of one GPU: of three, six workers take halves and none 1.5.
        per_gpu = int(1 / self.gpus + 1e-9)
        return min(fits, int(gpus) * per_gpu if self.gpus <= 1 else int(gpus // self.gpus))

    def __str__(self) -> str:
        cores = f"{self.cpus} core{'s' if self.cpus > 1 else ''}"
        return f"{self.gpus:g} GPU and {cores}" if self.gpus else cores


def resolve_share(device: str, gpus: float | None, threads: int) -> tuple[str, Share]:
    """The device of every worker, and what a worker takes of the cluster that is connected.

    Args:
        device: ``auto`` is a GPU if the cluster has any.
        gpus: of each worker; None is one, and none on processors.
    """
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    share = float(device == "cuda") if gpus is None else gpus
    if not (0 <= share <= 1 or share.is_integer()):
        raise CompatbenchError(
            f"--gpus-per-cell {share:g}: give a part of one GPU, such as 0.25, or a whole number"
        )
    return device, Share(share, threads)


def living_nodes() -> dict[str, dict[str, Any]]:
    """What Ray knows of the nodes that live, by id."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def count_workers(share: Share) -> int:
    """How many workers the living nodes hold."""
    resources = [node["Resources"] for node in living_nodes().values()]
    return sum(share.fit_into(has.get("GPU", 0), has.get("CPU", 0)) for has in resources)


def require_workers(share: Share) -> int:
    """Workers that the cluster holds now."""
    workers = count_workers(share)
    if workers == 0:
        has = ray.cluster_resources()
        raise CompatbenchError(
            f"no node of the Ray cluster has {share} for a cell, of {has.get('GPU', 0):g} GPUs and "
            f"{has.get('CPU', 0):g} cores in all; ask for less with --gpus-per-cell, --threads or "
            "--device"
        )
    return workers


@dataclass(frozen=True)
class View:
    """What every node must see as the driver does.

    Attributes:
        tokens: files that the driver has just written, and what is in them.
        engine: version of the harness.
        methods: identity of each method's code, by name and plug-in file.
        folder: where the driver runs; relative paths in cards start there.
    """

    tokens: dict[Path, bytes]
    engine: int
    methods: dict[tuple[str, str | None], str]
    folder: Path


@contextmanager
def shared_view(settings: Settings, cells: Sequence[Cell]) -> Iterator[View]:
    """Puts a token into store and cache for the time of a run, and describes the driver's code."""
    # The name is that of an unfinished file, as which it is cleaned up if it is left over.
    tokens = {
        folder / f".shared.{secrets.token_hex(6)}.tmp": secrets.token_bytes(16)
        for folder in (settings.store, settings.cache)
    }
    try:
        for path, content in tokens.items():
            write_atomic(path, content)
        used = {(cell.method, cell.plugin) for cell in cells}
        methods = {method: method_identity(find_method(*method)) for method in used}
        yield View(tokens, ENGINE_VERSION, methods, Path.cwd())
    finally:
        for path in tokens:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def find_difference(view: View) -> str:
    """What this node sees in another way than the driver; empty if nothing."""
    for path, content in view.tokens.items():
        seen = b""
        with suppress(OSError):
            seen = path.read_bytes()
        if seen != content:
            return (
                f"does not see the driver's {path.parent}; put it on a file system that all nodes "
                "share, under one path (--out, COMPATBENCH_CACHE)"
            )
        if not os.access(path.parent, os.W_OK):
            return f"cannot write {path.parent}; mount it for writing, by the same user"
    if view.engine != ENGINE_VERSION:
        versions = f"{view.engine} there, {ENGINE_VERSION} here"
        return f"has another version of compatbench ({versions}); install the driver's"
    for (name, plugin), code in view.methods.items():
        try:
            if method_identity(find_method(name, plugin)) != code:
                return f"has other code of method '{name}'; install the driver's"
        except CompatbenchError as error:
            return f"cannot load a method: {error}"
    return ""
