"""Connects to a Ray cluster, and finds what a worker may take of it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from compatbench.engine.execute.ray_nodes import Share, count_workers
from compatbench.errors import CompatbenchError

REACHABLE_SECONDS = 10.0
LAST_PORT = 65535

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


@contextmanager
def connect(address: str | None = None, threads: int = 1) -> Iterator[None]:
    """Connects to a Ray cluster, for the time of a run.

    Args:
        address: ``HOST:PORT``, or ``auto`` for the cluster that this machine belongs to; None is
            ``RAY_ADDRESS``, or a cluster of this machine alone, which ends with the run.
        threads: of every worker.

    Raises:
        CompatbenchError: there is no such cluster, or it has another version of Ray or Python.
    """
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where.startswith("ray://"):
        raise CompatbenchError(
            f"--address '{where}': Ray Client is not supported; run the command on a machine of "
            "the cluster, with '--address auto', or hand it to 'ray job submit'"
        )
    _check_reachable(where)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    inherited = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
    try:
        ray.init(
            where,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if where == "local" else None,
            # BLAS reads its thread count when it is loaded, before any of our code runs.
            runtime_env={"env_vars": {**inherited, "OMP_NUM_THREADS": str(threads)}},
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise _no_cluster(where, reason) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(where: str) -> None:
    """Finds out in seconds what Ray tries for minutes.

    Raises:
        CompatbenchError: nobody listens at this address.
    """
    host, colon, port = where.rpartition(":")
    if not colon:
        return
    if not port.isdecimal() or int(port) > LAST_PORT:
        raise _no_cluster(where, "its end is no number of a port")
    try:
        socket.create_connection((host, int(port)), REACHABLE_SECONDS).close()
    except OSError as error:
        raise _no_cluster(where, error.strerror or str(error)) from None


def _no_cluster(where: str, reason: str) -> CompatbenchError:
    return CompatbenchError(
        f"cannot use the Ray cluster '{where}': {reason}; start one with 'ray start --head', or "
        "leave out --address and RAY_ADDRESS to use this machine alone; if it asks for a token, "
        "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    )


def resolve_share(device: str, gpus: float | None, threads: int) -> tuple[str, Share]:
    """The device of every worker, and what a worker takes of the cluster that is connected.

    Args:
        device: ``auto`` is a GPU if the cluster has any.
        gpus: of each worker; None is one, and none on processors.

    Raises:
        CompatbenchError: a device of one machine, or a share that Ray cannot give.
    """
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    if ":" in device:
        raise CompatbenchError(
            f"--device '{device}': Ray gives every worker a device of its own; say "
            f"'--device {device.partition(':')[0]}'"
        )
    share = float(device == "cuda") if gpus is None else gpus
    if not (0 <= share <= 1 or share.is_integer()):
        raise CompatbenchError(
            f"--gpus-per-cell {share:g}: give a part of one GPU, such as 0.25, or a whole number"
        )
    return device, Share(share, threads)


def require_workers(share: Share) -> int:
    """Workers that the cluster holds now.

    Raises:
        CompatbenchError: it holds none.
    """
    workers = count_workers(share)
    if workers == 0:
        has = ray.cluster_resources()
        gpus, cpus = has.get("GPU", 0), has.get("CPU", 0)
        raise CompatbenchError(
            f"no node of the Ray cluster has {share} for a cell, of {gpus:g} GPUs and {cpus:g} "
            "cores in all; ask for less with --gpus-per-cell, --threads or --device"
        )
    return workers
