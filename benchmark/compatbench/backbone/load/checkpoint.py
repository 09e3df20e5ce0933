"""Reads the tensors of a checkpoint, in any format and under any of the usual names.

No code that is in a file is run, unless the user allows it.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from compatbench.backbone.load.find_weights import is_set
from compatbench.backbone.load.names import recognise
from compatbench.backbone.load.weights import hash_weights
from compatbench.errors import BackboneError, CompatbenchError, CompatbenchWarning
from compatbench.files.tensors import check_header
from compatbench.messages import first_line

TRUST_PICKLE = "COMPATBENCH_TRUST_PICKLE"
# Entries under which training scripts keep the weights, and prefixes of wrapped models.
_WRAPPERS = ("state_dict", "model_state_dict", "model_ema", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")
# A dictionary with fewer tensors may hold a step counter beside the weights.
_FEWEST = 4
# Numbers that OpenAI's archives keep among the weights.
_NUMBERS = ("input_resolution", "context_length", "vocab_size")
_EVA_SIZES = ("visual.pos_embed", "visual.patch_embed.proj.weight")
_BUFFERS = ("attn_mask", "position_ids")
_SHOWN = 3
_MAPPINGS = ("collections.defaultdict", "yacs.config.CfgNode")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, in their own precision, on the CPU.

    Code in the file is not run, unless the user has allowed that.
    """
    try:
        tensors = _find_tensors(_read(path))
    except BackboneError:
        raise
    except OSError as error:
        raise BackboneError(
            f"cannot read weights {path}: {error.strerror or error}", "correct the path or the file"
        ) from None
    # A damaged file makes the readers raise errors of any kind.
    except Exception as error:
        raise _damaged(path, first_line(error)) from None
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
    """What a file holds."""
    from safetensors.torch import load_file

    kind = kind_of_checkpoint(path)
    if kind == "script":
        return _read_script(path)
    check_size(path)
    return load_file(path) if kind == "safetensors" else _read_pickle(path)


def kind_of_checkpoint(path: Path) -> Literal["safetensors", "script", "archive", "pickle"]:
    """What a file is, by what it begins with.

    Raises:
        BackboneError: it is no checkpoint.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise BackboneError(f"{path} is a git-lfs pointer, not the weights", "run 'git lfs pull'")
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return "safetensors"
    if start.startswith(b"\x80"):
        return "pickle"
    if not start.startswith(b"PK"):
        raise BackboneError(
            f"{path} is not a checkpoint: it does not begin as one",
            "give a .safetensors file, or a .pt or .bin file of PyTorch",
        )
    if not zipfile.is_zipfile(path):
        raise ValueError("its end is missing")
    with zipfile.ZipFile(path) as archive:
        is_script = any(name.endswith("/constants.pkl") for name in archive.namelist())
    return "script" if is_script else "archive"


def _read_pickle(path: Path) -> object:
    """Tensors alone; a file that needs code in it to be run only if the user allows that."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error):
            raise
        # The part of torch's long message that names what the file asks for.
        asked = re.search(r"Unsupported.*?(?=\. |\n|$)", str(error))
        what = asked[0] if asked else first_line(error)
    _require_trust(path, what)
    return torch.load(path, map_location="cpu", weights_only=False)


def _read_script(path: Path) -> object:
    """The module in a TorchScript archive, whose program is compiled and can run as it is read.

    OpenAI published CLIP as such archives, which are known by their hashes.
    """
    if recognise(hash_weights(path)) is None:
        _require_trust(path, "the program of a TorchScript archive that is not known")
    with warnings.catch_warnings():  # newer versions no longer recommend to write such files
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(path, map_location="cpu")


def _require_trust(path: Path, what: str) -> None:
    """Refuses a file that holds more than tensors, or warns where the user trusts it."""
    if not is_set(TRUST_PICKLE):
        raise BackboneError(
            f"{path} holds more than tensors, and reading it would run code that is in it ({what})",
            "if you trust who made it, say --trust-pickle; better, save its state_dict alone",
        )
    warnings.warn(
        f"{path} is read with code that is in it, as --trust-pickle allows ({what})",
        CompatbenchWarning,
        stacklevel=2,
    )


class _Ignored:
    """In place of an object that a reader passes over: it takes a state, and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _EmptyMapping:
    """In place of a class of dictionaries, whose items a file puts in one after the other."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def load_archive(path: Path, is_ignored: Callable[[str], bool]) -> object:
    """What ``torch.save`` wrote, by ``torch.load(weights_only=True)``, which runs nothing.

    That would refuse a file whole if it holds a scheduler, as those of Dassl's trainers do: here
    objects of the classes for which ``is_ignored`` says so are empty ones.

    Raises:
        CompatbenchError: it holds an object of another class.
    """
    names = get_unsafe_globals_in_checkpoint(str(path))
    if refused := [name for name in sorted(names) if not is_ignored(name)]:
        raise CompatbenchError(
            f"{path} holds more than tensors: it asks for {refused[0]}; nothing in it was run. If "
            "you trust who made it, load it where it was made and save its state_dict alone"
        )
    empty: Any = [(_EmptyMapping if name in _MAPPINGS else _Ignored, name) for name in names]
    with safe_globals(empty):
        return torch.load(path, map_location="cpu", weights_only=True)


def _find_tensors(content: object) -> dict[str, Tensor]:
    """The named tensors, out of what a training script put around them."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        return {}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        check_stored(name, tensor)
    if len(tensors) < _FEWEST:
        wrapped = [_find_tensors(content[key]) for key in _WRAPPERS if key in content]
        return next((inner for inner in wrapped if inner), tensors)
    return tensors


def check_stored(name: str, tensor: Tensor) -> None:
    """A ``ValueError`` refuses a tensor that is larger than what is stored of it."""
    if tensor.layout == torch.strided and tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name!r} has more numbers than are stored")


def _damaged(path: Path, reason: str) -> BackboneError:
    size = path.stat().st_size
    return BackboneError(
        f"{path} is damaged or incomplete ({size:,} bytes): {reason}", "fetch it again"
    )


def check_size(path: Path) -> None:
    """A ``ValueError`` refuses what would take far more memory than its size, before it is read.

    What is not compressed, and shares no bytes, cannot unpack to more than the file.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start.endswith(b"{"):
        check_header(path)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        stored = [part for part in parts if part.compress_type == zipfile.ZIP_STORED]
        compressed = {part.filename for part in parts} - {part.filename for part in stored}
        if compressed:
            raise ValueError(f"{min(compressed)} is compressed")
        if sum(part.file_size for part in stored) > path.stat().st_size:
            raise ValueError("its parts overlap")


def is_openai(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors come from one of OpenAI's archives."""
    return all(name in tensors for name in _NUMBERS)


def fit_tensors(tensors: Mapping[str, Tensor], model: nn.Module, what: str) -> dict[str, Tensor]:
    """The tensors by the names that open_clip's model has for them.

    Knows plain CLIP's names (OpenAI, LAION), those with a separate text tower (``text.``),
    and those of EVA-CLIP's authors, which timm translates. Only the shape of a single number
    may change. ``what`` is the file and the backbone, for the message.
    """
    from open_clip.model import convert_to_custom_text_state_dict

    wanted = model.state_dict()
    fitted = {name: tensor for name, tensor in tensors.items() if name not in _NUMBERS}
    if "visual.blocks.0.norm1.weight" in fitted and "visual.trunk.pos_embed" in wanted:
        # timm would silently resize the positions of another image size.
        fixed = {name: wanted.get(name.replace("visual.", "visual.trunk.")) for name in _EVA_SIZES}
        _check(fitted, {name: t for name, t in fixed.items() if t is not None}, what, whole=False)
        fitted = _translate_eva(fitted, model)
    if "text.positional_embedding" in wanted and "positional_embedding" in fitted:
        fitted = convert_to_custom_text_state_dict(fitted)
    if "text.logit_scale" in fitted:  # where the loader of EVA-CLIP's authors keeps it
        fitted["logit_scale"] = fitted.pop("text.logit_scale")
    if "positional_embedding" in wanted and "text.positional_embedding" in fitted:
        fitted = {name.removeprefix("text."): tensor for name, tensor in fitted.items()}
    # Buffers that models of other versions kept in their files.
    fitted = {n: t for n, t in fitted.items() if n in wanted or n.split(".")[-1] not in _BUFFERS}
    for name in wanted.keys() & {"logit_scale", "logit_bias"} & fitted.keys():
        if fitted[name].numel() == wanted[name].numel() == 1:
            fitted[name] = fitted[name].reshape(wanted[name].shape)
    _check(fitted, wanted, what)
    return fitted


def _translate_eva(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    from timm.models.eva import checkpoint_filter_fn

    image = {name: t for name, t in tensors.items() if name.startswith("visual.")}
    rest = {name: t for name, t in tensors.items() if name not in image}
    translated = checkpoint_filter_fn(image, model.visual.trunk)  # type: ignore[arg-type, union-attr]
    return rest | {f"visual.trunk.{name}": t for name, t in translated.items()}


def _check(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str, whole: bool = True
) -> None:
    """Refuses tensors of other shapes, too few of them, and if they are the whole, too many."""
    problems = [
        f"{name} is {list(tensors[name].shape)} there, and {list(tensor.shape)} in the model"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ][:1]
    extra = [name for name in tensors if name not in wanted] if whole else []
    lacking = [name for name in wanted if name not in tensors]
    for word, names in (("they lack", lacking), ("they also hold", extra)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            problems.append(f"{word} {', '.join(names[:_SHOWN])}{more}")
    if problems:
        raise BackboneError(
            f"{what}: the weights do not fit the architecture: {'; '.join(problems)}",
            "give the model that they were made for",
        )
