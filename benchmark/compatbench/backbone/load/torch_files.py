"""Read files of ``torch.save``: zip archives, and the pickles of PyTorch before 1.6.

Nothing in a file is run, and no file takes more memory than its size. torch's own restricted reader
runs nothing either, but it makes a ``bytearray`` of any length that a file asks for, and storages
as large as an older file declares. Here a pickle yields only descriptions of tensors. Their numbers
are read when they are needed, after their place in the file is known.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from compatbench.messages import one_line

_MAGIC = 0x1950A86A20F9469CFC6C  # the first value of a file of PyTorch before 1.6
_MOST_DIMENSIONS = 64  # of a tensor, as in torch
_MOST_COUNT = 1 << 63
_COUNT_BYTES = 8  # before the numbers of each storage of such a file
# Objects of these packages are ignored: trainers store them with the weights.
_IGNORED = ("torch.optim.", "collections.", "numpy.", "argparse.", "yacs.", "dassl.")
_PLAIN = ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "slice")
_IGNORED_NAMES = {"_codecs.encode", "torch.Size", "torch.Tensor", "torch.device"}
_IGNORED_NAMES |= {f"builtins.{name}" for name in _PLAIN}
_IGNORED_NAMES |= {f"__builtin__.{name}" for name in _PLAIN}
_MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "yacs.config.CfgNode")
_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}


class MoreThanTensors(Exception):
    """A file that asks for something else than tensors and plain values: a class or function."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it asks for {one_line(name)}")


@dataclass(frozen=True)
class Storage:
    """Numbers in a file, which several tensors can share."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def nbytes(self) -> int:
        """Return the number of bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose numbers are still in the file."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def check(self, name: str) -> None:
        """Raise ``ValueError`` if the tensor has other numbers than those of its storage."""
        is_shape = len(self.size) == len(self.stride) <= _MOST_DIMENSIONS
        if not is_shape or not all(map(_is_count, (self.offset, *self.size, *self.stride))):
            raise ValueError(f"{name!r} has no valid shape")
        length = math.prod(self.size)
        last = self.offset
        for extent, step in zip(self.size, self.stride, strict=True):
            last += (extent - 1) * step
        stored = self.storage.nbytes // self.dtype.itemsize
        if length > stored or (length and last >= stored):
            raise ValueError(f"{name!r} has more numbers than are stored")


class TorchFile:
    """An open file.

    Attributes:
        content: what was saved, with ``StoredTensor`` in place of tensors.
        tensors: all tensors, those included that trainers keep beside the weights.
    """

    def __init__(
        self,
        content: object,
        tensors: list[StoredTensor],
        read_storage: Callable[[Storage], bytes],
    ) -> None:
        self.content = content
        self.tensors = tensors
        self._read_storage = read_storage
        self._bytes: dict[str, Tensor] = {}  # by the storage's key: tensors may share it

    def read(self, name: str, stored: StoredTensor) -> Tensor:
        """Return a tensor; ``name`` is for errors.

        Raises:
            ValueError: it does not fit the file.
        """
        stored.check(name)
        if 0 in stored.size:
            return torch.empty(stored.size, dtype=stored.dtype)
        key = stored.storage.key
        if key not in self._bytes:
            content = bytearray(self._read_storage(stored.storage))
            self._bytes[key] = torch.frombuffer(content, dtype=torch.uint8)
        numbers = self._bytes[key].view(stored.dtype)
        return numbers.as_strided(stored.size, stored.stride, stored.offset)


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a file of ``torch.save``. The parts of an archive must not be compressed.

    Raises:
        MoreThanTensors: the file holds other objects than tensors and those that are ignored.
        ValueError: the file is damaged, or declares more than it contains. A damaged file can
            cause other errors, too.
    """
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        is_archive = file.read(2) == b"PK"
        if is_archive:
            yield _open_archive(stack.enter_context(zipfile.ZipFile(file)))
        else:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            yield _open_pickles(stack.enter_context(mapped))


def is_old_torch_file(path: Path) -> bool:
    """Return True for a file of ``torch.save`` before PyTorch 1.6; False for other pickles."""
    with path.open("rb") as file:
        start = file.read(64)
    try:
        return _Unpickler(io.BytesIO(start)).load() == _MAGIC
    except Exception:  # a pickle of something else, cut after 64 bytes
        return False


def _open_archive(archive: zipfile.ZipFile) -> TorchFile:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("it is another kind of archive than torch.save writes")
    root = names[0].removesuffix("data.pkl")
    byte_order = f"{root}byteorder"
    if byte_order in archive.namelist():
        _check_byte_order(archive.read(byte_order) == b"little")

    def check(storage: Storage) -> None:
        if archive.getinfo(f"{root}data/{storage.key}").file_size != storage.nbytes:
            raise ValueError(f"part {storage.key} is not as large as it says")

    unpickler = _Unpickler(io.BytesIO(archive.read(names[0])))
    content = unpickler.load()
    for storage in unpickler.storages:
        check(storage)

    def read(storage: Storage) -> bytes:
        return archive.read(f"{root}data/{storage.key}")

    return TorchFile(content, unpickler.tensors, read)


def _open_pickles(mapped: mmap.mmap) -> TorchFile:
    """Open an older file: five pickles, and then the numbers of all storages."""
    if _Unpickler(mapped).load() != _MAGIC:
        raise ValueError("it is another kind of pickle than torch.save writes")
    _Unpickler(mapped).load()  # the version of the format: there is only one
    facts = _Unpickler(mapped).load()
    _check_byte_order(isinstance(facts, dict) and bool(facts.get("little_endian")))
    unpickler = _Unpickler(mapped)
    content = unpickler.load()
    keys = _Unpickler(mapped).load()
    expected = {storage.key: storage for storage in unpickler.storages}
    is_whole = isinstance(keys, list) and {*keys} == expected.keys()
    if not is_whole or len(expected) != len(unpickler.storages):
        raise ValueError("its list of storages does not fit its content")
    starts = {}
    position = mapped.tell()
    for key in keys:
        start = position + _COUNT_BYTES
        declared = int.from_bytes(mapped[position:start], "little")
        position = start + expected[key].nbytes
        if declared != expected[key].count or position > len(mapped):
            raise ValueError(f"storage {key} is not as large as it says")
        starts[key] = start

    def read(storage: Storage) -> bytes:
        start = starts[storage.key]
        return mapped[start : start + storage.nbytes]

    return TorchFile(content, unpickler.tensors, read)


def _check_byte_order(is_little: bool) -> None:
    if not is_little:
        raise ValueError("it was saved on a machine with another order of bytes")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST_COUNT


class _Ignored:
    """A stand-in for an object of a trainer. It does nothing."""

    def __init__(self, *_: Any) -> None:
        pass


class _Mapping:
    """A stand-in for a class of dictionaries: a plain one, to which a file adds its items."""

    def __new__(cls, *items: Any) -> dict[Any, Any]:  # type: ignore[misc]
        if not items or not isinstance(items[0], list):
            return {}
        # Python 2 gives an OrderedDict its items at once. The list is emptied, because a file could
        # ask for a thousand copies of the same long list.
        pairs = dict(items[0])
        items[0].clear()
        return pairs


class _Tuple(tuple):
    """A tuple that is compared by identity, as a key of a dictionary, too.

    To hash a tuple of tuples that are all the same one, level after level, could take forever.
    """

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class _Unpickler(pickle._Unpickler):
    """Read one pickle. Names in it stand for what is in this file, and never for anything else.

    It is Python's own reader, in Python: the faster one in C reserves memory for every number of
    an entry that a file mentions.
    """

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch}

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: set[Storage] = set()
        self.tensors: list[StoredTensor] = []

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name in _FUNCTIONS:
            function = _FUNCTIONS[full_name]
            return lambda *values: self._note(function(*values))
        if module.partition(".")[0] == "torch" and name in _STORAGES:
            return _STORAGES[name]
        # A table of dtypes at import would fail where Sphinx replaces torch by a mock.
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if full_name in _MAPPINGS:
            return _Mapping
        if full_name in _IGNORED_NAMES or full_name.startswith(_IGNORED):
            return _Ignored
        raise MoreThanTensors(full_name)

    def persistent_load(self, pid: Any) -> Storage:
        """Return a storage. A view of another storage is of a PyTorch before 0.4; none is read."""
        kind, dtype, key, _, count, *view = pid
        is_known = kind == "storage" and isinstance(dtype, torch.dtype) and isinstance(key, str)
        if not is_known or not _is_count(count) or any(part is not None for part in view):
            raise ValueError("it holds a storage of an unknown form")
        storage = Storage(key, dtype, count)
        self.storages.add(storage)
        return storage

    def _note(self, stored: Any) -> Any:
        if not isinstance(stored, StoredTensor):
            raise ValueError("it holds a tensor of an unknown form")
        self.tensors.append(stored)
        return stored

    def _drop_state(self) -> None:
        """Drop the state of an object. Objects are ignored, and their state could change ours."""
        self.stack.pop()  # type: ignore[attr-defined]

    def _make_tuple(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.append(_Tuple(items))  # type: ignore[attr-defined]

    def _make_tuple_of(self, length: int) -> None:
        self.stack[-length:] = [_Tuple(self.stack[-length:])]  # type: ignore[attr-defined]

    def _ignore_set(self) -> None:
        self.pop_mark()  # type: ignore[attr-defined]
        self.append(_Ignored())  # type: ignore[attr-defined]

    def _refuse_bytearray(self) -> None:
        raise ValueError("it holds a bytearray, which torch.save does not write")

    dispatch[pickle.BUILD[0]] = _drop_state
    dispatch[pickle.BYTEARRAY8[0]] = _refuse_bytearray
    dispatch[pickle.FROZENSET[0]] = _ignore_set
    dispatch[pickle.TUPLE[0]] = _make_tuple
    dispatch[pickle.TUPLE1[0]] = lambda self: self._make_tuple_of(1)
    dispatch[pickle.TUPLE2[0]] = lambda self: self._make_tuple_of(2)
    dispatch[pickle.TUPLE3[0]] = lambda self: self._make_tuple_of(3)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    """Stand for ``torch._utils._rebuild_tensor`` and ``_rebuild_tensor_v2``."""
    return _describe(storage, storage.dtype, offset, size, stride)


def _tensor_of_type(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, hooks: Any, dtype: Any, *__: Any
) -> StoredTensor:
    """Stand for ``_rebuild_tensor_v3``, whose storages are bytes."""
    return _describe(storage, dtype, offset, size, stride)


def _describe(storage: Any, dtype: Any, offset: Any, size: Any, stride: Any) -> StoredTensor:
    is_known = isinstance(storage, Storage) and isinstance(dtype, torch.dtype)
    if not is_known or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("it holds a tensor of an unknown form")
    return StoredTensor(storage, dtype, offset, size, stride)


def _parameter(data: Any, *_: Any) -> Any:
    """Stand for ``_rebuild_parameter`` and ``_rebuild_parameter_with_state``."""
    return data


def _tensor_with_state(make: Any, _: Any, values: Any, state: Any) -> Any:
    """Stand for ``_rebuild_from_type_v2``: a tensor with attributes, which are dropped."""
    return make(*values)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_state,
}
