"""Reads the tensors of a checkpoint, in any format and under any of the usual names.

No code that is in a file is run, unless the user allows it.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from compatbench.backbone.load.find_weights import is_set
from compatbench.backbone.load.names import QUICK, check_activation, model_names, recognise
from compatbench.backbone.load.weights import hash_weights
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError, CompatbenchError, CompatbenchWarning
from compatbench.files.tensors import read_header
from compatbench.messages import first_line

TRUST_PICKLE = "COMPATBENCH_TRUST_PICKLE"
# Entries under which training scripts keep the weights, and prefixes of wrapped models.
_WRAPPERS = ("state_dict", "model_state_dict", "model_ema", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")
# A dictionary with fewer tensors may hold a step counter beside the weights.
_FEWEST = 4
# Numbers that OpenAI's archives keep among the weights.
_NUMBERS = ("input_resolution", "context_length", "vocab_size")
_EVA_SIZES = ("pos_embed", "patch_embed.proj.weight")
_BUFFERS = ("attn_mask", "position_ids")
_SHOWN = 3


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, in their own precision, on the CPU.

    Code in the file is not run, unless the user has allowed that.
    """
    with failures_named(path):
        tensors = _find_tensors(_read(path))
    if not tensors:
        raise BackboneError(
            f"{path} holds no weights",
            "give a file of named tensors, such as the state_dict of a model",
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    return tensors


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


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Errors of readers, of which a damaged file causes any kind, as one line about a file."""
    try:
        yield
    except CompatbenchError:
        raise
    except OSError as error:
        what, fix = f"cannot read {path}: {first_line(error)}", "correct the path or the file"
        raise BackboneError(what, fix) from None
    except Exception as error:
        what = f"{path} is damaged or incomplete ({path.stat().st_size:,} bytes)"
        raise BackboneError(f"{what}: {first_line(error)}", "fetch it again") from None


def _read(path: Path) -> object:
    """What a file holds; one that needs code in it to be run only if the user allows that."""
    kind = kind_of_checkpoint(path)
    if kind == "script":  # its program is compiled and can run as it is read
        # OpenAI published CLIP as such archives, which are known by their hashes.
        if recognise(hash_weights(path)) is None:
            _require_trust(path, "the program of a TorchScript archive that is not known")
        with warnings.catch_warnings():  # newer versions no longer recommend to write such files
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(path, map_location="cpu")
    check_size(path)
    if kind == "safetensors":
        return load_file(path)
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


def check_size(path: Path) -> None:
    """A ``ValueError`` refuses what would take far more memory than its size, before it is read.

    What is not compressed, and shares no bytes, cannot unpack to more than the file.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start.endswith(b"{"):
        read_header(path)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        stored = [part for part in parts if part.compress_type == zipfile.ZIP_STORED]
        compressed = {part.filename for part in parts} - {part.filename for part in stored}
        if compressed:
            raise ValueError(f"{min(compressed)} is compressed")
        if sum(part.file_size for part in stored) > path.stat().st_size:
            raise ValueError("its parts overlap")


def fit_weights(model: nn.Module, path: Path, card: BackboneCard) -> dict[str, Tensor]:
    """The tensors of a file by the model's names, in the file's own precision.

    OpenAI's need QuickGELU, which their file does not say. A published file is recognised by its
    hash, and OpenAI's archives by what else they hold; of others it cannot be known.
    """
    tensors = read_tensors(path)
    release = recognise(hash_weights(path)) if card.weights is None else None
    if release is not None:
        weights = f"the weights {path}, which are {release},"
        check_activation(card, weights, release.quick_gelu)
        if card.tag not in (None, release.tag):
            raise BackboneError(
                f"backbone '{card.name}': the weights {path} are {release}, not '{card.tag}'",
                f"name them so ({release}@FILE), or give the file of '{card.tag}'",
            )
    elif all(name in tensors for name in _NUMBERS):  # as OpenAI's archives keep them
        check_activation(card, f"OpenAI's weights {path}", quick=True)
    quick = f"{card.config}{QUICK}"
    unknown = release is None and card.path and card.tag is None
    if unknown and card.config and quick in model_names():
        warnings.warn(
            f"backbone '{card.name}': {path} does not say whether it was trained with GELU, which "
            f"'{card.config}' computes, or QuickGELU, as OpenAI's weights were; name its release "
            f"({card.config}/TAG@FILE), or the model '{quick}'",
            CompatbenchWarning,
            stacklevel=2,
        )
    return fit_tensors(tensors, model, f"backbone '{card.name}', {path}")


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
        fitted = _translate_eva(fitted, model.visual.trunk)  # type: ignore[union-attr]
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
    problems = [
        f"{name} is {list(fitted[name].shape)} there, and {list(tensor.shape)} in the model"
        for name, tensor in wanted.items()
        if name in fitted and fitted[name].shape != tensor.shape
    ][:1]
    for word, holds, others in (("lack", wanted, fitted), ("also hold", fitted, wanted)):
        if names := [name for name in holds if name not in others]:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            problems.append(f"they {word} {', '.join(names[:_SHOWN])}{more}")
    if problems:
        raise BackboneError(
            f"{what}: the weights do not fit the architecture: {'; '.join(problems)}",
            "give the model that they were made for",
        )
    return fitted


def _translate_eva(tensors: dict[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
    from timm.models.eva import checkpoint_filter_fn

    image = {name: t for name, t in tensors.items() if name.startswith("visual.")}
    expected = trunk.state_dict()
    # timm would silently resize the positions of another image size, so it is not shown them.
    sized = {f"visual.{name}": expected[name] for name in _EVA_SIZES if f"visual.{name}" in image}
    translated = checkpoint_filter_fn(image | sized, trunk)  # type: ignore[arg-type]
    translated |= {name: image[f"visual.{name}"] for name in _EVA_SIZES if name in translated}
    rest = {name: t for name, t in tensors.items() if name not in image}
    return rest | {f"visual.trunk.{name}": t for name, t in translated.items()}
