"""Read a checkpoint's named tensors and plain values. Nothing in a file is ever run."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from compatbench.backbone.load.checkpoint import check_size, failures_named, kind_of_checkpoint
from compatbench.backbone.load.torch_files import (
    MoreThanTensors,
    StoredTensor,
    is_old_torch_file,
    open_torch_file,
)
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import require
from compatbench.files.sizes import format_bytes
from compatbench.files.tensors import KEY

# The names of checkpoints in a folder; Dassl puts them into the folder of a registered model.
_IN_FOLDERS = (
    "checkpoint",
    "*/checkpoint",
    "model-best.pth.tar",
    "*/model-best.pth.tar",
    "model.pth.tar-*",
    "*/model.pth.tar-*",
    "adapter_model.*",
    "keys_*shots.pt",
    "lora_weights.pt",
    "model.safetensors",
    "pytorch_model.bin",
)
_VALUES = (str, int, float)
MAX_UNPACKED = 1 << 30  # bytes of an npz file
MOST_NAMED = 8 << 20  # characters of all names, and entries of all lists, in a file


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file.

    Attributes:
        path: the file.
        tensors: by their names, joined by dots if they are nested; those of a ``state_dict``
            by its own names. The tensor of a file with only one tensor has the name ``""``.
        values: numbers, texts and lists of them beside the tensors, with names of the same form.
        skipped: the names of other objects, which are not read.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    skipped: frozenset[str] = frozenset()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file, or the checkpoint in a folder.

    Raises:
        CompatbenchError: there is none, it is damaged, or it holds more than tensors.
    """
    if path.is_dir():
        path = _find_in(path)
    with failures_named(path):
        named, skipped = _read(require(path, follow=True))
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CompatbenchError(f"{path} holds no tensors; give a file with the weights of a module")
    values = {name: value for name, value in named.items() if name not in tensors}
    return Checkpoint(path, tensors, values, frozenset(skipped))


def _find_in(folder: Path) -> Path:
    """Return the checkpoint in a folder: of Dassl, PEFT, Tip-Adapter, CLIP-LoRA or transformers."""
    for pattern in _IN_FOLDERS:
        paths = sorted(path for path in folder.glob(pattern) if path.is_file())
        if pattern.endswith("-*"):
            paths = _find_last_epochs(paths)
        if not paths:
            continue
        if pattern.endswith("checkpoint"):  # this file holds the name of the last checkpoint
            name = paths[0].read_bytes()[:200].decode(errors="replace").strip()
            paths = [paths[0].with_name(Path(name).name)]
        if len(paths) == 1:
            return paths[0]
        names = ", ".join(path.relative_to(folder).as_posix() for path in paths)
        raise CompatbenchError(f"{folder} holds several checkpoints; give one of {names}")
    names = ", ".join(pattern for pattern in _IN_FOLDERS[1:] if not pattern.startswith("*/"))
    raise CompatbenchError(
        f"{folder}: no checkpoint found (looked for Dassl's 'checkpoint', {names}). Give the file, "
        f"for example {folder}/prompt_learner/model.pth.tar-50."
    )


def _find_last_epochs(paths: Sequence[Path]) -> list[Path]:
    """Return the file with the highest number after its name in each folder."""
    last: dict[Path, tuple[int, Path]] = {}
    for path in paths:
        epoch = path.name.rpartition("-")[2]
        if epoch.isdecimal():
            numbered = (int(epoch), path)
            last[path.parent] = max(last.get(path.parent, numbered), numbered)
    return [path for _, path in last.values()]


def _read(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Return the tensors and plain values of a file by their names, and the names of the rest."""
    kind = kind_of_checkpoint(path)
    if kind == "pickle" and not is_old_torch_file(path):
        raise CompatbenchError(
            f"{path} is a bare pickle, as of joblib; reading one would run code in it. Where it "
            f'was made, run: import joblib, numpy; p = joblib.load("{path.name}"); '
            f'numpy.savez("{path.stem}.npz", coef=p.coef_, intercept=p.intercept_, '
            "classes=p.classes_.tolist())"
        )
    if kind == "script":
        raise CompatbenchError(f"{path} is an archive of another kind than torch.save writes")
    if kind == "archive":
        arrays = _read_arrays(path)
        if arrays:
            return _name_values(arrays)
    check_size(path)
    if kind in ("archive", "pickle"):
        return _read_archive(path)
    with safe_open(path, "pt") as opened:
        if KEY in (opened.metadata() or {}):
            raise CompatbenchError(f"{path} is a module of compatbench; it needs no import")
        return _name_values({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118


def _read_archive(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Return what ``_read`` returns, of a file of ``torch.save``."""
    try:
        with open_torch_file(path) as file:
            named, skipped = _name_values(file.content)
            for name, value in named.items():
                if isinstance(value, StoredTensor):
                    named[name] = file.read(name, value)
            return named, skipped
    except MoreThanTensors as error:
        raise CompatbenchError(
            f"{path} holds more than tensors: {error}; nothing in it was run. If you trust its "
            "author, load it where it was made and save only its state_dict"
        ) from None


def _read_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a file of ``numpy.savez``; empty for an archive without arrays.

    Raises:
        CompatbenchError: an array of Python objects, which numpy stores as a pickle.
    """
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith(".npy") for name in archive.namelist()):
            return {}
        if sum(member.file_size for member in archive.infolist()) > MAX_UNPACKED:
            raise ValueError(f"it unpacks to more than {format_bytes(MAX_UNPACKED)}")
    numbers: dict[str, Any] = {}
    others: dict[str, Any] = {}
    with np.load(path, allow_pickle=False) as opened:
        for name in opened.files:
            try:
                array = opened[name]
            except ValueError as error:
                if "Object arrays" not in str(error):
                    raise
                raise CompatbenchError(
                    f"{path}: '{name}' is an array of Python objects, which is not read; save it "
                    f"with {name}=ARRAY.tolist()"
                ) from None
            if array.dtype.kind in "fiub":
                numbers[name] = torch.from_numpy(array)
            elif array.dtype.kind == "U":
                others[name] = array.tolist()
            else:
                others[name] = array  # its name is noted, and it is skipped
    return numbers | others


def _name_values(content: object) -> tuple[dict[str, Any], set[str]]:
    """Return tensors and plain values by their names, and the names of what is skipped.

    Trainers keep other objects beside the weights: settings, and the state of the training.
    """
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        others = dict(content)
        state = others.pop("state_dict")
        content = others | dict(state)
    named = {}
    skipped = set()
    waiting: list[tuple[str, Any]] = [("", content)]
    total = 0
    while waiting:
        name, value = waiting.pop()
        # The containers of a file can share their content, level after level.
        if total > MOST_NAMED:
            raise ValueError(f"its names and lists are longer than {MOST_NAMED:,}")
        if isinstance(value, Mapping):
            inner = []
            for key, entry in value.items():
                if not isinstance(key, str | int):
                    skipped.add(name)
                elif key not in ("optimizer", "scheduler"):
                    inner_name = f"{name}.{key}" if name else str(key)
                    total += len(inner_name)
                    inner.append((inner_name, entry))
            waiting += reversed(inner)
            continue
        if isinstance(value, list | tuple):
            value = list(value)
            total += len(value)
        name = name.removeprefix("module.")
        if isinstance(value, (Tensor, StoredTensor)) or _is_plain(value):
            named[name] = value
        elif value is not None:
            skipped.add(name)
    return named, skipped


def _is_plain(value: Any) -> bool:
    """Return True for a number, a text or a list of these."""
    if isinstance(value, list):
        return all(isinstance(entry, _VALUES) for entry in value)
    return isinstance(value, _VALUES)
