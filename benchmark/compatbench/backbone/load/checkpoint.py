"""Reads the tensors of a checkpoint, in any format, without running code that is in it."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from compatbench.backbone.load.environment import trusts_pickle
from compatbench.backbone.load.torchscript import is_torchscript, read_torchscript
from compatbench.errors import BackboneError, CompatbenchWarning

# Entries under which training scripts keep the weights, and prefixes of wrapped models.
_WRAPPERS = ("state_dict", "model_state_dict", "model_ema", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")
# A dictionary with fewer tensors may hold a step counter beside the weights.
_FEWEST = 4


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, in their own precision, on the CPU.

    Reads safetensors, PyTorch's zip and older pickle files of tensors, and TorchScript
    archives, from which the tensors alone are taken.

    Raises:
        BackboneError: the file is damaged, is no checkpoint, or cannot be read without
            running code in it, which the user has not allowed.
    """
    try:
        tensors = _find_tensors(_read(path))
    except OSError as error:
        raise BackboneError(
            f"cannot read weights {path}: {error.strerror or error}", "correct the path or the file"
        ) from None
    if not tensors:
        raise BackboneError(
            f"{path} holds no weights",
            "give a file of named tensors, such as the state_dict of a model",
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    return tensors


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
            raise _damaged(path, error) from None
        return read_torchscript(path) if scripted else _read_pickle(path)
    if start.startswith(b"PK"):
        raise _damaged(path, "its end is missing")
    if start.startswith(b"\x80"):
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
        raise _damaged(path, error) from None


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error):
            raise _damaged(path, error) from None
        return _read_code(path, _what_is_refused(error))
    except OSError:
        raise
    # A damaged stream makes torch raise errors of any kind.
    except Exception as error:
        raise _damaged(path, error) from None


def _read_code(path: Path, what: str) -> object:
    """Reads a file that needs code in it to be run, if the user allows that."""
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


def _what_is_refused(error: Exception) -> str:
    """The part of torch's long message that names what the file asks for."""
    lines = [line.strip(" \t-*") for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if "Unsupported" in line:
            return line[line.index("Unsupported") :].split(". ")[0]
    return lines[-1]


def _find_tensors(found: object) -> dict[str, Tensor]:
    """The named tensors, out of what a training script put around them."""
    if isinstance(found, torch.nn.Module):
        found = found.state_dict()
    if not isinstance(found, Mapping):
        return {}
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if len(tensors) < _FEWEST:
        wrapped = [_find_tensors(found[key]) for key in _WRAPPERS if key in found]
        return next((inner for inner in wrapped if inner), tensors)
    return tensors


def _damaged(path: Path, why: object) -> BackboneError:
    reason = (str(why).splitlines() or ["nothing can be read"])[0].strip()
    return BackboneError(
        f"{path} is damaged or incomplete ({path.stat().st_size:,} bytes): {reason}",
        "fetch it again",
    )
