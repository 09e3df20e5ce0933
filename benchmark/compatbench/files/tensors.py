"""Named tensors in one safetensors file, with a description and a checksum of both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import canonical_json, sha256_bytes
from compatbench.files.kinds import require
from compatbench.messages import first_line

if TYPE_CHECKING:
    from torch import Tensor

KEY = "compatbench"  # the only entry of a header's metadata: several would have no fixed order
MOST_HEADER = 4 << 20  # bytes: enough for some 40,000 names


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes, types and bits."""
    parts = []
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        parts.append(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        parts.append(tensor.numpy().tobytes())
    return sha256_bytes(*parts)


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    schema: str,
    about: Mapping[str, Any],
    *,
    sync: bool = True,
) -> None:
    """Write tensors with the JSON values ``about`` atomically.

    The same content gives the same bytes. ``schema`` names the kind of file.
    """
    write_atomic(path, pack_tensors(tensors, schema, about), sync=sync)


def pack_tensors(tensors: Mapping[str, Tensor], schema: str, about: Mapping[str, Any]) -> bytes:
    """Return the bytes that ``save_tensors`` writes."""
    from safetensors.torch import save

    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    values = {"schema": schema, "about": dict(about), "sha256": _checksum(cpu, schema, about)}
    return save(cpu, {KEY: canonical_json(values)})


def load_tensors(path: Path, schema: str, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and ``about`` of a file, named ``what`` in errors. This runs no code."""
    try:
        values, tensors = read_tensors(path)
        if values.get("schema") != schema:
            raise CompatbenchError(f"{path} is not a compatbench {what}")
        about = dict(values["about"])
        intact = _checksum(tensors, schema, about) == values["sha256"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CompatbenchError(f"cannot read {what} {path}: {first_line(error)}") from None
    if not intact:
        raise CompatbenchError(f"{path} is damaged: its checksum does not match its content")
    return tensors, about


def _checksum(tensors: Mapping[str, Tensor], schema: str, about: Mapping[str, Any]) -> str:
    description = canonical_json([schema, dict(about)])
    return sha256_bytes(fingerprint(tensors).encode(), description.encode())


def read_header(path: Path) -> bytes:
    """Return the header of a safetensors file. Raise ``ValueError`` if it is cut or too large."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("it is no safetensors file, or cut short")
        if size > MOST_HEADER:
            raise ValueError(f"its header has {size:,} bytes, of {MOST_HEADER:,} at most")
        return file.read(size)


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the values under ``KEY`` in a file's header and its memory-mapped tensors.

    The values are empty if the header has no such entry. A parser would accept other bytes for the
    same values, such as other white space or ``1E-05`` for ``1e-05``.

    Raises:
        ValueError: the header was changed after it was written.
    """
    header = read_header(require(path, follow=True))
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = metadata.get(KEY) or "{}"
    values = json.loads(text)
    is_canonical = canonical_json(values) == text
    # safetensors pads a header with spaces.
    if not is_canonical or not header.rstrip(b" ").endswith(b"}"):
        raise ValueError("its header is not as it was written")
    if not isinstance(values, dict):
        raise ValueError("its header has no entry of compatbench")
    return values, tensors
