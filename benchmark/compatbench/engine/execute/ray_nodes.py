"""The nodes of a Ray cluster: how many cells they hold, and whether they see what the driver sees.

Store and cache are folders, so every node must have them on one file system under one path;
and a cell's key holds the hash of the code, so every node must run the driver's code.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from compatbench.engine.cell import Cell
from compatbench.engine.execute.executors import Settings
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.method.identity import method_identity
from compatbench.method.registry import builtin_methods


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


def living_nodes() -> dict[str, dict[str, Any]]:
    """What Ray tells of the nodes that live, by id."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def count_workers(share: Share) -> int:
    """How many workers the living nodes hold."""
    resources = [node["Resources"] for node in living_nodes().values()]
    return sum(share.fit_into(has.get("GPU", 0), has.get("CPU", 0)) for has in resources)


@dataclass(frozen=True)
class View:
    """What every node must see as the driver does.

    Attributes:
        tokens: files that the driver has just written, and what is in them.
        engine: version of the harness.
        methods: hash of each method's code, by name and plug-in file.
        folder: where the driver runs; relative paths in cards start there.
    """

    tokens: dict[Path, bytes]
    engine: int
    methods: dict[tuple[str, str | None], str]
    folder: Path


def write_view(settings: Settings, cells: Sequence[Cell]) -> View:
    """Puts a token into store and cache, and describes the driver's code.

    Raises:
        CompatbenchError: a folder cannot be written.
    """
    # The name is that of an unfinished file, which is what it would be if it were left over.
    tokens = {
        folder / f".shared.{secrets.token_hex(6)}.tmp": secrets.token_bytes(16)
        for folder in (settings.store, settings.cache)
    }
    for path, content in tokens.items():
        write_atomic(path, content)
    wanted = {(cell.method, cell.plugin) for cell in cells}
    return View(tokens, ENGINE_VERSION, _hash_methods(wanted), Path.cwd())


def remove_tokens(view: View) -> None:
    """Removes the tokens; workers that start later would see none."""
    for path in view.tokens:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def find_difference(view: View) -> str:
    """Looks from here; says what this node sees in another way than the driver, if anything."""
    for path, content in view.tokens.items():
        try:
            seen = path.read_bytes() == content
        except OSError:
            seen = False
        if not seen:
            return (
                f"does not see the driver's {path.parent}; put it on a file system that all nodes "
                "share, under one path (--out, COMPATBENCH_CACHE)"
            )
        if not os.access(path.parent, os.W_OK):
            return f"cannot write {path.parent}; mount it for writing, by the same user"
    here = f"{view.engine} there, {ENGINE_VERSION} here"
    if view.engine != ENGINE_VERSION:
        return f"has another version of compatbench ({here}); install the driver's"
    try:
        methods = _hash_methods(view.methods)
    except CompatbenchError as error:
        return f"cannot load a method: {error}"
    for (name, plugin), code in view.methods.items():
        if methods[name, plugin] != code:
            return f"has other code of method '{name}'; install the driver's"
    return ""


def describe_cause(error: RayError) -> str:
    """What went wrong on the other side, in one line."""
    if isinstance(error, RayTaskError):
        # Ray gives the other side's trace, which ends as all do.
        return str(error).strip().splitlines()[-1]
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _hash_methods(wanted: Iterable[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
    registry = builtin_methods()
    hashes = {}
    for name, plugin in wanted:
        if plugin is not None and name not in registry.classes:
            registry.add_file(Path(plugin))
        hashes[name, plugin] = method_identity(registry.get(name))
    return hashes
