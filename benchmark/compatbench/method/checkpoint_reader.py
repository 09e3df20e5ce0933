"""What a checkpoint holds: named tensors and plain values. Nothing in a file is ever run."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from compatbench.backbone.load.checkpoint import (
    check_size,
    check_stored,
    failures_named,
    kind_of_checkpoint,
)
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import require
from compatbench.files.sizes import format_bytes
from compatbench.files.tensors import KEY

# Objects of these packages are ignored: trainers store them with the weights.
_PASSED_OVER = ("torch.optim.", "collections.", "numpy.", "argparse.", "yacs.", "dassl.")
_PLAIN = ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "slice")
_BUILTINS = {f"{where}.{name}" for where in ("builtins", "__builtin__") for name in _PLAIN}
# Where what is sought in a folder lies: in itself, or in the one of a model that Dassl registered.
_IN_FOLDERS = ("checkpoint", "*/checkpoint", "adapter_model.*", "keys_*shots.pt", "lora_weights.pt")
_MAPPINGS = ("collections.defaultdict", "yacs.config.CfgNode")
_SHOWN = (str, int, float)
MOST_UNPACKED = 1 << 30  # bytes of an npz file


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file.

    Attributes:
        tensors: by their names, joined by dots where they are nested; those of a ``state_dict``
            by its own names. A file of one tensor has it under ``""``.
        values: numbers, texts and lists of them beside the tensors, likewise.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a file, or what is found in a folder.

    Raises:
        CompatbenchError: there is none, it is damaged, or it holds more than tensors.
    """
    if path.is_dir():
        path = _find_in(path)
    with failures_named(path):
        content = _read(require(path, follow=True))
        if isinstance(content, Mapping) and isinstance(inner := content.get("state_dict"), Mapping):
            content = {k: v for k, v in content.items() if k != "state_dict"} | {**inner}
        named = {name.removeprefix("module."): value for name, value in _flatten(content, "")}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CompatbenchError(f"{path} holds no tensors; give a file with the weights of a module")
    values = {name: value for name, value in named.items() if name not in tensors}
    return Checkpoint(path, tensors, values)


def _find_in(folder: Path) -> Path:
    """The checkpoint in a folder of a trainer of Dassl, PEFT, Tip-Adapter or CLIP-LoRA."""
    for pattern in _IN_FOLDERS:
        paths = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not paths:
            continue
        if pattern.endswith("checkpoint"):  # it tells the name of the last
            name = paths[0].read_bytes()[:200].decode(errors="replace").strip()
            paths = [paths[0].with_name(Path(name).name)]
        if len(paths) == 1:
            return paths[0]
        names = ", ".join(path.name for path in paths)
        raise CompatbenchError(f"{folder} holds several checkpoints; give one of {names}")
    raise CompatbenchError(f"{folder} holds no checkpoint of a known kind; give its file")


def _read(path: Path) -> Any:
    kind = kind_of_checkpoint(path)
    if kind == "pickle":
        raise CompatbenchError(
            f"{path} is a bare pickle, of joblib or of a PyTorch before 1.6, which is not read; "
            "where it was made, save its arrays with numpy.savez, or its state_dict with torch.save"
        )
    if kind == "archive" and (arrays := _read_arrays(path)):
        return arrays
    if kind == "script":
        raise CompatbenchError(f"{path} is an archive of another kind than torch.save writes")
    check_size(path)
    if kind == "archive":
        return _load_archive(path)
    with safe_open(path, "pt") as opened:
        if KEY in (opened.metadata() or {}):
            raise CompatbenchError(f"{path} is a module of compatbench; it needs no import")
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


class _PassedOver:
    """In place of an object of a trainer: it takes a state, and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _EmptyMapping:
    """In place of a class of dictionaries, whose items a file puts in one after the other."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _load_archive(path: Path) -> object:
    """What ``torch.save`` wrote, by ``torch.load(weights_only=True)``, which runs nothing.

    That would refuse a file whole if it holds a scheduler, as those of Dassl's trainers do.

    Raises:
        CompatbenchError: it holds an object that is not ignored.
    """
    names = get_unsafe_globals_in_checkpoint(str(path))
    for name in sorted(names):
        if name not in _BUILTINS and not name.startswith(_PASSED_OVER):
            raise CompatbenchError(
                f"{path} holds more than tensors: it asks for {name}; nothing in it was run. If "
                "you trust who made it, load it where it was made and save its state_dict alone"
            )
    empty: Any = [(_EmptyMapping if name in _MAPPINGS else _PassedOver, name) for name in names]
    with safe_globals(empty):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_arrays(path: Path) -> dict[str, Any]:
    """What ``numpy.savez`` wrote; empty for an archive that holds no arrays."""
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith(".npy") for name in archive.namelist()):
            return {}
        if sum(member.file_size for member in archive.infolist()) > MOST_UNPACKED:
            raise ValueError(f"it unpacks to more than {format_bytes(MOST_UNPACKED)}")
    with np.load(path, allow_pickle=False) as opened:
        arrays = {**opened}
    numbers = {n: torch.from_numpy(a) for n, a in arrays.items() if a.dtype.kind in "fiub"}
    return numbers | {n: a.tolist() for n, a in arrays.items() if a.dtype.kind == "U"}


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Tensors and plain values by their names; what else trainers keep is left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, str | int) and key not in ("optimizer", "scheduler"):
                yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, Tensor):
        check_stored(name, value)
        yield name, value
    elif isinstance(value, _SHOWN) or (
        isinstance(value, list) and all(isinstance(entry, _SHOWN) for entry in value)
    ):
        yield name, value
