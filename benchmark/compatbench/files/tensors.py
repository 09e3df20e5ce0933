"""Named tensors in one safetensors file, with a description and a checksum of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import canonical_json, sha256_bytes
from compatbench.files.safetensors_header import KEY, read_header


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes, types and bits."""
    parts = []
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        parts += [
            f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode(),
            tensor.numpy().tobytes(),
        ]
    return sha256_bytes(*parts)


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    schema: str,
    about: Mapping[str, Any],
    *,
    sync: bool = True,
) -> None:
    """Writes tensors with ``about`` (JSON); the same content gives the same bytes.

    Args:
        schema: what kind of file this is.
        sync: as in ``write_atomic``.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    values = {"schema": schema, "about": dict(about), "sha256": _checksum(cpu, schema, dict(about))}
    # One entry, since safetensors writes several in no fixed order.
    write_atomic(path, save(cpu, {KEY: canonical_json(values)}), sync=sync)


def load_tensors(path: Path, schema: str, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what ``save_tensors`` wrote; no code is run.

    Args:
        schema: the kind of file that is wanted.
        what: what such a file is called in messages: ``module``.

    Raises:
        CompatbenchError: the file is missing, damaged, or of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values = read_header(path, metadata[KEY]) if KEY in metadata else {}
        if values.get("schema") != schema:
            raise CompatbenchError(f"{path} is not a compatbench {what}")
        about, checksum = dict(values["about"]), values["sha256"]
        intact = _checksum(tensors, schema, about) == checksum
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CompatbenchError(f"cannot read {what} {path}: {error}") from None
    if not intact:
        raise CompatbenchError(f"{path} is damaged: its checksum does not match its content")
    return tensors, about


def _checksum(tensors: Mapping[str, Tensor], schema: str, about: dict[str, Any]) -> str:
    description = canonical_json([schema, about])
    return sha256_bytes(fingerprint(tensors).encode(), description.encode())
