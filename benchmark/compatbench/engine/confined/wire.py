"""Messages between processes: JSON and raw tensors; nothing that is read can run code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

MOST_HEADER = 4 << 20  # bytes
MOST_BYTES = 8 << 30  # of the tensors of one message
DTYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}


def write_message(
    file: BinaryIO, header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
) -> None:
    """Sends a header (JSON values) and named tensors."""
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()}
    about = [[n, str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in cpu.items()]
    text = json.dumps([dict(header), about], default=sorted).encode()  # of a set
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in cpu.values():
        file.write(_bytes_of(tensor))
    file.flush()


def read_message(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Receives what ``write_message`` sent; tensors have memory of their own.

    Raises:
        EOFError: the other side is gone.
        ValueError: it sent something else, or more than is read.
    """
    size = bytearray(8)
    _fill(file, memoryview(size))
    length = int.from_bytes(size, "little")
    if length > MOST_HEADER:
        raise ValueError(f"a header of {length:,} bytes")
    text = bytearray(length)
    _fill(file, memoryview(text))
    try:
        header, about = json.loads(text)
        places = [(str(n), DTYPES[kind], [int(size) for size in shape]) for n, kind, shape in about]
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"not a message: {type(error).__name__}") from None
    if not isinstance(header, dict) or any(size < 0 for *_, shape in places for size in shape):
        raise ValueError("not a message")
    if sum(kind.itemsize * math.prod(shape) for _, kind, shape in places) > MOST_BYTES:
        raise ValueError("more tensors than are read")
    tensors = {}
    for name, kind, shape in places:
        tensors[name] = torch.empty(shape, dtype=kind)
        _fill(file, _bytes_of(tensors[name]))
    return header, tensors


def _bytes_of(tensor: Tensor) -> memoryview:
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _fill(file: BinaryIO, buffer: memoryview) -> None:
    while len(buffer):
        count = file.readinto(buffer)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        buffer = buffer[count:]
