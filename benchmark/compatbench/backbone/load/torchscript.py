"""Reads the tensors of a TorchScript archive without running the program in it.

OpenAI published CLIP as such archives. ``torch.jit.load`` would compile their program and
run its ``__setstate__``. Here the pickled tree of modules is read with an unpickler that
makes tensors, containers and inert nodes, and nothing else.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from compatbench.errors import BackboneError


def is_torchscript(path: Path) -> bool:
    """Whether a zip file is a TorchScript archive: it holds constants and code."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of an archive's module, by their names in it.

    Raises:
        BackboneError: the archive is damaged, or holds anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [tree] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            with _open_stored(archive, tree) as file:
                found = _Unpickler(file, archive, tree.removesuffix("data.pkl")).load()
            return dict(_walk(found, ""))
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"{path} is a TorchScript archive that holds more than tensors: {error}",
            "save the state_dict of its module as safetensors, and give that file",
        ) from None
    # A damaged stream makes an unpickler raise errors of any kind.
    except Exception as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise BackboneError(
            f"{path} is a TorchScript archive that is damaged or incomplete: {text}",
            "fetch it again",
        ) from None


def _open_stored(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Opens a member that is not compressed: one that is could unpack to any size."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.open(name)


class _Node:
    """A module of the archive: its attributes, and none of its code."""

    def __setstate__(self, state: Any) -> None:
        self.attributes: dict[str, Any] = state if isinstance(state, dict) else {}


def _first_argument(value: Any, *_: Any) -> Any:
    return value


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    return storage.as_strided(size, stride, offset)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _first_argument,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "LongStorage"): torch.int64,
    ("torch", "IntStorage"): torch.int32,
    ("torch", "ShortStorage"): torch.int16,
    ("torch", "CharStorage"): torch.int8,
    ("torch", "ByteStorage"): torch.uint8,
    ("torch", "BoolStorage"): torch.bool,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Node
        if module == "torch.jit._pickle":  # lists and dictionaries with the types of their items
            return _first_argument
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage as a flat tensor, ``[numel]``."""
        _, dtype, key, _, count = pid
        if key not in self._storages:
            with _open_stored(self._archive, f"{self._root}data/{key}") as file:
                content = bytearray(file.read())
            self._storages[key] = torch.frombuffer(content, dtype=dtype, count=count)
        return self._storages[key]


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Node):
        for part, inner in value.attributes.items():
            yield from _walk(inner, f"{name}.{part}" if name else part)
