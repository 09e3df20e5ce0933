"""Reads the pickle in an archive of ``torch.save``, and makes nothing but tensors and containers.

No name in a file is looked up: a name on the list below has a meaning here, and the reader of a
file says what stands for any other. ``torch.load(weights_only=True)`` is as careful, but refuses
a file whole if it holds a scheduler, as those of Dassl's trainers do.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, ClassVar

import torch
from torch import Tensor


def open_stored(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Opens a member that is not compressed: one that is could unpack to any size."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.open(name)


class StandIn:
    """In place of an object of any class: it takes all that is done to it, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __call__(self, *_: Any, **__: Any) -> StandIn:
        return self

    __setitem__ = append = extend = add = __call__


def first_argument(value: Any, *_: Any) -> Any:
    return value


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    tensor = storage.as_strided(size, stride, offset)  # which refuses to look beyond the storage
    if tensor.nbytes > storage.nbytes:
        raise ValueError("a tensor has more numbers than are stored of it")
    return tensor


_KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_parameter": first_argument,
    "collections.OrderedDict": OrderedDict,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
}
for _name in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Bool"):
    _KNOWN[f"torch.{_name}Storage"] = getattr(torch, _name.lower())


# Python's own reader, not the one in C, which takes memory for as many objects as a file claims.
class TensorUnpickler(pickle._Unpickler):  # type: ignore[misc, name-defined]
    """Reads ``ROOT/data.pkl`` of an archive.

    Args:
        find: what stands for a name, such as ``torch.optim.sgd.SGD``, that is not known; it
            may raise.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]
    stack: list[Any]

    def __init__(self, archive: zipfile.ZipFile, root: str, find: Callable[[str], Any]) -> None:
        super().__init__(open_stored(archive, f"{root}data.pkl"))
        self._archive, self._root, self._find = archive, root, find
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}"
        return _KNOWN[whole] if whole in _KNOWN else self._find(whole)

    def load_build(self) -> None:
        """The state of an object: kept of a stand-in, for a reader to look at, and of no other."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn) and isinstance(state, dict):
            self.stack[-1].attributes = state

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage as a flat tensor, ``[numel]``, on the CPU wherever it was."""
        _, dtype, key, _, count = pid
        if key not in self._storages:
            with open_stored(self._archive, f"{self._root}data/{key}") as file:
                content = bytearray(file.read())
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = (
                torch.frombuffer(content, dtype=dtype, count=count) if count else empty
            )
        return self._storages[key]
