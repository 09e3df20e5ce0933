"""Reads the tensors of a checkpoint, in any format, without running code that is in it."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compatbench.backbone.load.switches import trusts_pickle
from compatbench.backbone.load.torchscript import is_torchscript, read_torchscript
from compatbench.errors import BackboneError, CompatbenchWarning

# Under which a training script keeps the weights, and what wrappers put before their names.
_WRAPPERS = ("state_dict", "model_state_dict", "model_ema", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, in their own precision, on the CPU.

    Reads safetensors, PyTorch's zip and older pickle files of tensors, and TorchScript
    archives, from which the tensors alone are taken.

    Raises:
        BackboneError: the file is damaged, is no checkpoint, or holds objects whose making
            would run code, which nobody has allowed.
    """
    try:
        return _strip_prefixes(_unwrap(_read(path), path))
    except OSError as error:
        raise BackboneError(
            f"cannot read weights {path}: {error.strerror or error}", "mend the path or the file"
        ) from None


def _read(path: Path) -> object:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise BackboneError(f"{path} is a git-lfs pointer, not the weights", "run 'git lfs pull'")
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if zipfile.is_zipfile(path):
        try:
            scripted = is_torchscript(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise _damaged(path, str(error)) from None
        return read_torchscript(path) if scripted else _read_pickle(path)
    if start.startswith((b"PK", b"\x80")):
        # A zip file's directory is its end; an older pickle may have no more than its start.
        if start.startswith(b"PK"):
            raise _damaged(path, "its end is missing")
        return _read_pickle(path)
    raise BackboneError(
        f"{path} is no checkpoint: it begins with {start[:8]!r}",
        "give a .safetensors file, or a .pt or .bin file of PyTorch",
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        return _read_trusted(path, error)
    except OSError:
        raise
    # torch's reader runs no code, but raises whatever a damaged stream makes it stumble over.
    except Exception as error:
        raise _damaged(path, str(error)) from None


def _read_trusted(path: Path, reason: Exception) -> object:
    """Reads a file whose objects are made by code in it, if the user allows that."""
    what = _first_line(reason, marker="Unsupported")
    if "Weights only load failed" not in str(reason):
        raise _damaged(path, what)
    if not trusts_pickle():
        raise BackboneError(
            f"{path} holds more than tensors, and reading it would run code that is in it ({what})",
            "if you trust who made it, say --trust-pickle; better, save its state_dict alone",
        )
    warnings.warn(
        f"{path} is read with code that is in it, as --trust-pickle allows ({what})",
        CompatbenchWarning,
        stacklevel=2,
    )
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    # Code from a file may raise anything.
    except Exception as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def _unwrap(found: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors, out of what a training script put around it."""
    if isinstance(found, torch.nn.Module):
        found = found.state_dict()
    while isinstance(found, Mapping) and not _tensors(found):
        inner: Any = next((found[key] for key in _WRAPPERS if found.get(key)), None)
        if isinstance(inner, torch.nn.Module):
            inner = inner.state_dict()
        if not isinstance(inner, Mapping):
            break
        found = inner
    tensors = _tensors(found) if isinstance(found, Mapping) else {}
    if isinstance(found, Mapping) and len(tensors) < 4:
        # A step counter may be a tensor too.
        inner = next((found[k] for k in _WRAPPERS if isinstance(found.get(k), Mapping)), None)
        tensors = _tensors(inner) if inner else tensors
    if not tensors:
        raise BackboneError(
            f"{path} holds no weights",
            "give a file of named tensors, such as the state_dict of a model",
        )
    return tensors


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in mapping.items() if isinstance(value, Tensor)}


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    return tensors


def _damaged(path: Path, why: str) -> BackboneError:
    return BackboneError(
        f"{path} is damaged or incomplete ({path.stat().st_size:,} bytes): {_line(why)}",
        "fetch it again",
    )


def _first_line(error: Exception, marker: str) -> str:
    """The line of torch's long explanation that names what the file asks for."""
    lines = [line.strip(" \t-*") for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if marker in line:
            return line[line.index(marker) :].split(". ")[0]
    return lines[-1] if lines else type(error).__name__


def _line(text: str) -> str:
    return text.splitlines()[0].strip() if text else "nothing can be read"
