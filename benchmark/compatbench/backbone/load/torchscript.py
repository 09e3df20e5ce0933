"""Takes the tensors out of a TorchScript archive without loading the program in it.

OpenAI published CLIP as such archives. ``torch.jit.load`` would compile their program and
run its ``__setstate__``; what is needed is the pickled tree of modules and the storages it
points to. The tree is read with an unpickler that makes tensors, containers and inert
nodes, and nothing else.
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
        BackboneError: the archive is damaged, or its tree holds what is no tensor.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [tree] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            _check_stored(archive, tree)
            root = tree.removesuffix("data.pkl")
            with archive.open(tree) as file:
                found = _Reader(file, archive, root).load()
            return dict(_walk(found, ""))
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"{path} is a TorchScript archive that holds more than tensors: {error}",
            "save the state_dict of its module as safetensors, and give that file",
        ) from None
    # An unpickler raises whatever a damaged stream makes it stumble over.
    except Exception as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise BackboneError(
            f"{path} is a TorchScript archive that is damaged or incomplete: {text}",
            "fetch it again",
        ) from None


def _check_stored(archive: zipfile.ZipFile, name: str) -> None:
    """PyTorch compresses code alone; tensors that are could unpack to any size."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")


class _Node:
    """A module of the archive: its attributes, and none of its code."""

    def __setstate__(self, state: Any) -> None:
        self.attributes: dict[str, Any] = state if isinstance(state, dict) else {}


def _as_is(value: Any, *_: Any) -> Any:
    return value


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("collections", "OrderedDict"): OrderedDict,
}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Node
        if module == "torch.jit._pickle":  # lists and dictionaries with the types of their items
            return _as_is
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage as a flat tensor, ``[numel]``."""
        _, dtype, key, _, count = pid
        if key not in self._storages:
            _check_stored(self._archive, f"{self._root}data/{key}")
            content = self._archive.read(f"{self._root}data/{key}")
            self._storages[key] = torch.frombuffer(bytearray(content), dtype=dtype, count=count)
        return self._storages[key]


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Node):
        for part, inner in value.attributes.items():
            yield from _walk(inner, f"{name}.{part}" if name else part)
