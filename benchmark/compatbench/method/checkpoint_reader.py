"""Read a checkpoint's named tensors and plain values. Nothing in a file is ever run."""

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
_IGNORED = ("torch.optim.", "collections.", "numpy.", "argparse.", "yacs.", "dassl.")
_PLAIN = ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "slice")
_BUILTINS = {f"builtins.{name}" for name in _PLAIN} | {f"__builtin__.{name}" for name in _PLAIN}
# The names of checkpoints in a folder; Dassl puts them into the folder of a registered model.
_IN_FOLDERS = ("checkpoint", "*/checkpoint", "adapter_model.*", "keys_*shots.pt", "lora_weights.pt")
_MAPPINGS = ("collections.defaultdict", "yacs.config.CfgNode")
_VALUES = (str, int, float)
MAX_UNPACKED = 1 << 30  # bytes of an npz file


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file.

    Attributes:
        path: the file.
        tensors: by their names, joined by dots if they are nested; those of a ``state_dict``
            by its own names. The tensor of a file with only one tensor has the name ``""``.
        values: numbers, texts and lists of them beside the tensors, with names of the same form.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file, or the checkpoint in a folder.

    Raises:
        CompatbenchError: there is none, it is damaged, or it holds more than tensors.
    """
    if path.is_dir():
        path = _find_in(path)
    with failures_named(path):
        content = _read(require(path, follow=True))
        if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
            others = dict(content)
            state = others.pop("state_dict")
            content = others | dict(state)
        named = {name.removeprefix("module."): value for name, value in _flatten(content, "")}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CompatbenchError(f"{path} holds no tensors; give a file with the weights of a module")
    values = {name: value for name, value in named.items() if name not in tensors}
    return Checkpoint(path, tensors, values)


def _find_in(folder: Path) -> Path:
    """Return the checkpoint in a folder of a trainer of Dassl, PEFT, Tip-Adapter or CLIP-LoRA."""
    for pattern in _IN_FOLDERS:
        paths = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not paths:
            continue
        if pattern.endswith("checkpoint"):  # this file holds the name of the last checkpoint
            name = paths[0].read_bytes()[:200].decode(errors="replace").strip()
            paths = [paths[0].with_name(Path(name).name)]
        if len(paths) == 1:
            return paths[0]
        names = ", ".join(path.name for path in paths)
        raise CompatbenchError(f"{folder} holds several checkpoints; give one of {names}")
    raise CompatbenchError(f"{folder} holds no checkpoint of a known kind; give its file")


def _read(path: Path) -> Any:
    """Return the content of a file: tensors, containers and plain values."""
    kind = kind_of_checkpoint(path)
    if kind == "pickle":
        raise CompatbenchError(
            f"{path} is a bare pickle, of joblib or of a PyTorch before 1.6, which is not read; "
            "where it was made, save its arrays with numpy.savez, or its state_dict with torch.save"
        )
    if kind == "script":
        raise CompatbenchError(f"{path} is an archive of another kind than torch.save writes")
    if kind == "archive":
        arrays = _read_arrays(path)
        if arrays:
            return arrays
    check_size(path)
    if kind == "archive":
        return _load_archive(path)
    with safe_open(path, "pt") as opened:
        if KEY in (opened.metadata() or {}):
            raise CompatbenchError(f"{path} is a module of compatbench; it needs no import")
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


class _Ignored:
    """A stand-in for an object of a trainer: it accepts a state, and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _EmptyMapping:
    """A stand-in for a class of dictionaries, whose items a file adds one after the other."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _load_archive(path: Path) -> object:
    """Return the content of a file of ``torch.save``, by ``torch.load(weights_only=True)``.

    That runs nothing in the file. But alone it would refuse a file with a scheduler, such as
    those of Dassl's trainers, so stand-ins replace the trainers' objects.

    Raises:
        CompatbenchError: the file holds an object that is not ignored.
    """
    names = get_unsafe_globals_in_checkpoint(str(path))
    for name in sorted(names):
        if name not in _BUILTINS and not name.startswith(_IGNORED):
            raise CompatbenchError(
                f"{path} holds more than tensors: it asks for {name}; nothing in it was run. If "
                "you trust its author, load it where it was made and save only its state_dict"
            )
    stand_ins: list[Any] = []
    for name in names:
        stand_in = _EmptyMapping if name in _MAPPINGS else _Ignored
        stand_ins.append((stand_in, name))
    with safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a file of ``numpy.savez``; empty for an archive without arrays."""
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith(".npy") for name in archive.namelist()):
            return {}
        if sum(member.file_size for member in archive.infolist()) > MAX_UNPACKED:
            raise ValueError(f"it unpacks to more than {format_bytes(MAX_UNPACKED)}")
    with np.load(path, allow_pickle=False) as opened:
        arrays = dict(opened)
    numbers: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    for name, array in arrays.items():
        if array.dtype.kind in "fiub":
            numbers[name] = torch.from_numpy(array)
        elif array.dtype.kind == "U":
            texts[name] = array.tolist()
    return numbers | texts


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield tensors and plain values by their names; skip all other things that trainers keep."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, str | int) and key not in ("optimizer", "scheduler"):
                yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, Tensor):
        check_stored(name, value)
        yield name, value
    elif _is_plain(value):
        yield name, value


def _is_plain(value: Any) -> bool:
    """Return True for a number, a text or a list of these."""
    if isinstance(value, list):
        return all(isinstance(entry, _VALUES) for entry in value)
    return isinstance(value, _VALUES)
