"""What a checkpoint holds: named tensors and plain values. Nothing in a file is ever run."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compatbench.backbone.load.checkpoint import check_size
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import require
from compatbench.files.sizes import format_bytes
from compatbench.files.tensors import KEY
from compatbench.files.torch_archive import StandIn, TensorUnpickler, open_stored
from compatbench.messages import first_line

# Objects of these packages are ignored: trainers store them with the weights.
_PASSED_OVER = ("torch.optim.", "collections.", "numpy.", "argparse.", "yacs.", "dassl.")
_PLAIN = ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "slice")
_BUILTINS = {f"{where}.{name}" for where in ("builtins", "__builtin__") for name in _PLAIN}
_ALSO = _BUILTINS | {"torch.device", "torch.Size", "_codecs.encode"}
# Where what is sought in a folder lies: in itself, or in the one of a model that Dassl registered.
_IN_FOLDERS = ("checkpoint", "*/checkpoint", "adapter_model.*", "keys_*shots.pt", "lora_weights.pt")
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

    def beside(self, name: str) -> Checkpoint:
        """Another file of the same folder.

        Raises:
            CompatbenchError: it is not there, or cannot be read.
        """
        return read_checkpoint(self.path.with_name(name))


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a file, or what is found in a folder.

    Raises:
        CompatbenchError: there is none, it is damaged, or it holds more than tensors.
    """
    if path.is_dir():
        path = _find_in(path)
    try:
        content = _read(require(path, follow=True))
    except CompatbenchError:
        raise
    except OSError as error:
        raise CompatbenchError(f"cannot read {path}: {first_line(error)}") from None
    except Exception as error:  # a damaged file makes the readers raise errors of any kind
        size = format_bytes(path.stat().st_size)
        what = f"{path} is damaged or incomplete ({size}): {first_line(error)}"
        raise CompatbenchError(f"{what}; fetch it again") from None
    if isinstance(content, Mapping) and isinstance(inner := content.get("state_dict"), Mapping):
        content = {k: v for k, v in content.items() if k != "state_dict"} | {**inner}
    tensors, values = {}, {}
    for name, value in _flatten(content, ""):
        into: dict[str, Any] = tensors if isinstance(value, Tensor) else values
        into[name.removeprefix("module.")] = value
    if not tensors:
        raise CompatbenchError(f"{path} holds no tensors; give a file with the weights of a module")
    return Checkpoint(path, tensors, values)


def is_archive(path: Path) -> bool:
    """Whether a file begins as what torch, numpy and pickle write, and no module does."""
    try:
        with require(path, follow=True).open("rb") as file:
            return file.read(2).startswith((b"PK", b"\x80"))
    except OSError:
        return False


def _find_in(folder: Path) -> Path:
    """The checkpoint in a folder of a trainer of Dassl, PEFT, Tip-Adapter or CLIP-LoRA."""
    for pattern in _IN_FOLDERS:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not found:
            continue
        if pattern.endswith("checkpoint"):  # it tells the name of the last
            name = found[0].read_bytes()[:200].decode(errors="replace").strip()
            found = [found[0].with_name(Path(name).name)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(path.name for path in found)
        raise CompatbenchError(f"{folder} holds several checkpoints; give one of {names}")
    raise CompatbenchError(f"{folder} holds no checkpoint of a known kind; give its file")


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CompatbenchError(f"{path} is a git-lfs pointer, not the file; run 'git lfs pull'")
    if start[8:9] == b"{":
        from safetensors import safe_open

        check_size(path)
        with safe_open(path, "pt") as opened:
            if KEY in (opened.metadata() or {}):
                raise CompatbenchError(f"{path} is a module of compatbench; it needs no import")
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if not start.startswith((b"PK", b"\x80")):
        raise CompatbenchError(
            f"{path} is not a checkpoint: it does not begin as one; give a file of torch.save, "
            "safetensors or npz"
        )
    if start.startswith(b"\x80"):
        raise CompatbenchError(
            f"{path} is a bare pickle, of joblib or of a PyTorch before 1.6, which is not read; "
            "where it was made, save its arrays with numpy.savez, or its state_dict with torch.save"
        )
    if not zipfile.is_zipfile(path):
        raise ValueError("its end is missing")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith(".npy") for name in names):
            return _read_arrays(path, archive)
        check_size(path)
        trees = [name for name in names if name.endswith("/data.pkl")]
        if len(trees) != 1 or any(name.endswith("/constants.pkl") for name in names):
            raise CompatbenchError(f"{path} is an archive of another kind than torch.save writes")
        root = trees[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names:
            with open_stored(archive, f"{root}byteorder") as file:
                if file.read(9) != b"little":
                    raise CompatbenchError(f"{path} was written by a big-endian machine")
        return TensorUnpickler(archive, root, lambda name: _find(path, name)).load()


def _find(path: Path, name: str) -> type[StandIn]:
    if name in _ALSO or name.startswith(_PASSED_OVER):
        return StandIn
    raise CompatbenchError(
        f"{path} holds more than tensors: it asks for {name}; nothing in it was run. If you trust "
        "who made it, load it where it was made and save its state_dict alone"
    )


def _read_arrays(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    import numpy as np

    if sum(one.file_size for one in archive.infolist()) > MOST_UNPACKED:
        raise ValueError(f"it unpacks to more than {format_bytes(MOST_UNPACKED)}")
    with np.load(path, allow_pickle=False) as arrays:
        found = {**arrays}
    numbers = {n: torch.from_numpy(a) for n, a in found.items() if a.dtype.kind in "fiub"}
    return numbers | {n: a.tolist() for n, a in found.items() if a.dtype.kind == "U"}


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Tensors and plain values by their names; what else trainers keep is left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, str | int) and key not in ("optimizer", "scheduler"):
                yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (Tensor, *_SHOWN)) or (
        isinstance(value, list) and all(isinstance(one, _SHOWN) for one in value)
    ):
        yield name, value
