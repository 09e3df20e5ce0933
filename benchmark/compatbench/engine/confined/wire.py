"""Messages between processes: JSON with raw tensors in it; nothing that is read can run code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, BinaryIO

import torch
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.rotated import RotatedBackbone
from compatbench.data.feature_cache import StoredRows
from compatbench.method import Module

MOST_TEXT = 4 << 20  # bytes
MOST_BYTES = 8 << 30  # of the tensors of one message
_TYPES = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64"
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _TYPES.split()}
_TENSOR = "$tensor"  # what stands in the text for a tensor: its number


def write_message(file: BinaryIO, message: Mapping[str, Any]) -> None:
    """Sends JSON values, tensors, and what is made of these: dataclasses, modules, backbones."""
    tensors: list[Tensor] = []
    values = json.dumps(message, default=partial(_encode, tensors))
    about = [[str(one.dtype).removeprefix("torch."), list(one.shape)] for one in tensors]
    text = f"[{json.dumps(about)}, {values}]".encode()
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        file.write(_bytes_of(tensor))
    file.flush()


def _encode(tensors: list[Tensor], value: Any) -> Any:
    """A value as JSON knows it; the tensors in it are added to the list."""
    if isinstance(value, Tensor):
        tensors.append(value.detach().cpu().contiguous())
        return {_TENSOR: len(tensors) - 1}
    if isinstance(value, StoredRows):  # on disk
        return value[torch.arange(len(value))]
    if isinstance(value, Module):
        return {"trained": value.trained, "stored": value.stored}
    if isinstance(value, Backbone):
        rotation = value.rotation if isinstance(value, RotatedBackbone) else None
        drop = getattr(value, "mlp_drop", 0.0)
        return {"name": value.name, "rotation": rotation, "mlp_drop": drop}
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return sorted(value)  # of a set


def read_message(file: BinaryIO, *, tensors_asked: bool = True) -> dict[str, Any]:
    """Receives what ``write_message`` sent, but for its classes; tensors have memory of their own.

    Raises:
        EOFError: the other side is gone.
        ValueError: it sent something else, or more than is read; or tensors that nobody asked for.
    """
    size = bytearray(8)
    _fill(file, memoryview(size))
    length = int.from_bytes(size, "little")
    if length > MOST_TEXT:
        raise ValueError(f"a text of {length:,} bytes")
    text = bytearray(length)
    _fill(file, memoryview(text))
    tensors: list[Tensor] = []

    def put_tensor(values: dict[str, Any]) -> Any:
        return tensors[values[_TENSOR]] if values.keys() == {_TENSOR} else values

    try:
        about, _ = json.loads(text)
        if about and not tensors_asked:
            raise ValueError("tensors that nobody asked for")
        places = [(DTYPES[kind], [int(size) for size in shape]) for kind, shape in about]
        if any(size < 0 for _, shape in places for size in shape):
            raise ValueError("not a message")
        if sum(kind.itemsize * math.prod(shape) for kind, shape in places) > MOST_BYTES:
            raise ValueError("more tensors than are read")
        for kind, shape in places:
            tensors.append(torch.empty(shape, dtype=kind))
            _fill(file, _bytes_of(tensors[-1]))
        return dict(json.loads(text, object_hook=put_tensor)[1])
    except (TypeError, LookupError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a message: {type(error).__name__}") from None


def _bytes_of(tensor: Tensor) -> memoryview:
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _fill(file: BinaryIO, buffer: memoryview) -> None:
    while len(buffer):
        count = file.readinto(buffer)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        buffer = buffer[count:]
