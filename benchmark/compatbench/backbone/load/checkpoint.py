"""Read the tensors of a checkpoint, in any format and under any of the usual names.

Code inside a file never runs unless the user allows it.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from compatbench.backbone.load.backbone_names import QUICK, check_activation, model_names, recognise
from compatbench.backbone.load.find_weights import is_set
from compatbench.backbone.load.torch_files import MoreThanTensors, StoredTensor, open_torch_file
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
AnyTensor = TypeVar("AnyTensor", Tensor, StoredTensor)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint, in their own precision, on the CPU.

    Code in the file does not run unless the user has allowed it.

    Raises:
        BackboneError: the file is unreadable or damaged, holds no weights, or needs code to run
            that the user has not allowed.
    """
    with failures_named(path):
        tensors = _read(path)
        for name, tensor in tensors.items():
            check_stored(name, tensor)
    if not tensors:
        raise BackboneError(
            f"{path} holds no weights",
            "give a file of named tensors, such as the state_dict of a model",
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def kind_of_checkpoint(path: Path) -> Literal["safetensors", "script", "archive", "pickle"]:
    """Return the kind of a checkpoint, judged by its first bytes.

    Raises:
        BackboneError: the file is not a checkpoint.
        ValueError: the end of an archive is missing.
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
    """Turn all errors of a reader into a ``BackboneError`` of one line about the file.

    A damaged file can cause an error of any kind.
    """
    try:
        yield
    except CompatbenchError:
        raise
    except OSError as error:
        problem = f"cannot read {path}: {first_line(error)}"
        raise BackboneError(problem, "correct the path or the file") from None
    except Exception as error:
        problem = f"{path} is damaged or incomplete ({path.stat().st_size:,} bytes)"
        raise BackboneError(f"{problem}: {first_line(error)}", "fetch it again") from None


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file; run code inside it only if the user allows that."""
    kind = kind_of_checkpoint(path)
    if kind == "script":  # its program is compiled and can run while it is read
        # OpenAI published CLIP as such archives, which are known by their hashes.
        if recognise(hash_weights(path)) is None:
            _require_trust(path, "the program of a TorchScript archive that is not known")
        with warnings.catch_warnings():  # newer versions of torch advise against such files
            warnings.simplefilter("ignore", FutureWarning)
            return _find_tensors(torch.jit.load(path, map_location="cpu"), Tensor)
    check_size(path)
    if kind == "safetensors":
        return load_file(path)
    try:
        with open_torch_file(path) as file:
            stored = _find_tensors(file.content, StoredTensor)
            return {name: file.read(name, tensor) for name, tensor in stored.items()}
    except MoreThanTensors as error:
        _require_trust(path, str(error))
    return _find_tensors(torch.load(path, map_location="cpu", weights_only=False), Tensor)


def _require_trust(path: Path, reason: str) -> None:
    """Raise an error for a file with code inside, or warn if the user trusts it."""
    if not is_set(TRUST_PICKLE):
        raise BackboneError(
            f"{path} holds more than tensors, and reading it would run code that is in it "
            f"({reason})",
            "if you trust its author, add --trust-pickle; it is safer to save only its state_dict",
        )
    warnings.warn(
        f"reading {path} runs code that is in it, as --trust-pickle allows ({reason})",
        CompatbenchWarning,
        stacklevel=2,
    )


def _find_tensors(content: object, kind: type[AnyTensor]) -> dict[str, AnyTensor]:
    """Return the named tensors of a file, without the wrapper that a training script put around."""
    visited = set()

    def find(content: object) -> dict[str, AnyTensor]:
        # The wrappers of a file can share their content, level after level.
        if id(content) in visited:
            return {}
        visited.add(id(content))
        if isinstance(content, nn.Module):
            content = content.state_dict()
        if not isinstance(content, Mapping):
            return {}
        tensors = {name: value for name, value in content.items() if isinstance(value, kind)}
        if len(tensors) < _FEWEST:
            for wrapper in _WRAPPERS:
                inner = find(content.get(wrapper))
                if inner:
                    return inner
        return tensors

    return find(content)


def check_stored(name: str, tensor: Tensor) -> None:
    """Raise ``ValueError`` for a tensor with more numbers than its storage holds."""
    if tensor.layout == torch.strided and tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name!r} has more numbers than are stored")


def check_size(path: Path) -> None:
    """Raise ``ValueError`` for a file that would need far more memory than its size.

    The check comes before the file is read. Parts that are not compressed and share no bytes
    cannot unpack to more than the file.
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


def check_file(path: Path) -> None:
    """Raise an error for a file that another library must not be given to read.

    It would need far more memory than its size, or holds other objects than tensors.
    """
    check_size(path)
    if kind_of_checkpoint(path) != "safetensors":
        with open_torch_file(path) as file:
            for tensor in file.tensors:
                tensor.check("a tensor")


def fit_weights(model: nn.Module, path: Path, card: BackboneCard) -> dict[str, Tensor]:
    """Return the tensors of a file by the model's names, in the file's own precision.

    OpenAI's weights need QuickGELU, but their file does not record that. Published files are
    recognised by their hash, and OpenAI's archives by the numbers beside the weights. For other
    files the activation is unknown, which gives a warning.

    Raises:
        BackboneError: the weights do not fit the model, or belong to another release or
            activation than the card's.
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
    elif all(name in tensors for name in _NUMBERS):  # only OpenAI's archives hold them
        check_activation(card, f"OpenAI's weights {path}", quick=True)
    quick = f"{card.config}{QUICK}"
    is_unknown = release is None and card.path and card.tag is None
    if is_unknown and card.config and quick in model_names():
        warnings.warn(
            f"backbone '{card.name}': {path} does not say whether it was trained with GELU, which "
            f"'{card.config}' computes, or QuickGELU, as OpenAI's weights were; name its release "
            f"({card.config}/TAG@FILE), or the model '{quick}'",
            CompatbenchWarning,
            stacklevel=2,
        )
    return fit_tensors(tensors, model, f"backbone '{card.name}', {path}")


def fit_tensors(tensors: Mapping[str, Tensor], model: nn.Module, what: str) -> dict[str, Tensor]:
    """Return the tensors by the names that open_clip's model has for them.

    The function knows plain CLIP's names (OpenAI, LAION), those with a separate text tower
    (``text.``), and those of EVA-CLIP's authors, which timm translates. It changes no shape but
    that of a single number.

    Args:
        tensors: the tensors of a checkpoint, by the names in the file.
        model: open_clip's model.
        what: the file and the backbone, for the message.

    Raises:
        BackboneError: tensors are missing, superfluous or of another shape.
    """
    from open_clip.model import convert_to_custom_text_state_dict

    expected = model.state_dict()
    fitted = {name: tensor for name, tensor in tensors.items() if name not in _NUMBERS}
    if "visual.blocks.0.norm1.weight" in fitted and "visual.trunk.pos_embed" in expected:
        fitted = _translate_eva(fitted, model.visual.trunk)  # type: ignore[union-attr]
    if "text.positional_embedding" in expected and "positional_embedding" in fitted:
        fitted = convert_to_custom_text_state_dict(fitted)
    if "text.logit_scale" in fitted:  # the loader of EVA-CLIP's authors keeps it there
        fitted["logit_scale"] = fitted.pop("text.logit_scale")
    if "positional_embedding" in expected and "text.positional_embedding" in fitted:
        fitted = {name.removeprefix("text."): tensor for name, tensor in fitted.items()}
    for name in list(fitted):
        # Models of other versions kept these buffers in their files.
        if name not in expected and name.split(".")[-1] in _BUFFERS:
            del fitted[name]
    for name in expected.keys() & {"logit_scale", "logit_bias"} & fitted.keys():
        if fitted[name].numel() == expected[name].numel() == 1:
            fitted[name] = fitted[name].reshape(expected[name].shape)
    problems = _find_problems(fitted, expected)
    if problems:
        raise BackboneError(
            f"{what}: the weights do not fit the architecture: {'; '.join(problems)}",
            "give the model that they were made for",
        )
    return fitted


def _find_problems(fitted: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the first tensor of another shape, the missing and the superfluous names."""
    problems = []
    for name, tensor in expected.items():
        if name in fitted and fitted[name].shape != tensor.shape:
            problems.append(
                f"{name} is {list(fitted[name].shape)} there, and {list(tensor.shape)} in the model"
            )
            break
    missing = [name for name in expected if name not in fitted]
    if missing:
        problems.append(f"they lack {_list_names(missing)}")
    superfluous = [name for name in fitted if name not in expected]
    if superfluous:
        problems.append(f"they also hold {_list_names(superfluous)}")
    return problems


def _list_names(names: list[str]) -> str:
    """Return the first names, and the number of the others."""
    shown = ", ".join(names[:_SHOWN])
    if len(names) > _SHOWN:
        return f"{shown} and {len(names) - _SHOWN} more"
    return shown


def _translate_eva(tensors: dict[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
    """Return tensors with the image tower's names changed from EVA-CLIP's authors' to timm's."""
    from timm.models.eva import checkpoint_filter_fn

    image = {}
    translated = {}
    for name, tensor in tensors.items():
        if name.startswith("visual."):
            image[name] = tensor
        else:
            translated[name] = tensor
    # timm would silently resize the positions of another image size. So it gets the trunk's own
    # tensors of these names, and the checkpoint's take their place afterwards.
    expected = trunk.state_dict()
    sizes = {f"visual.{name}": expected[name] for name in _EVA_SIZES if f"visual.{name}" in image}
    filtered = checkpoint_filter_fn(image | sizes, trunk)  # type: ignore[arg-type]
    for name, tensor in filtered.items():
        if name in _EVA_SIZES:
            tensor = image[f"visual.{name}"]
        translated[f"visual.trunk.{name}"] = tensor
    return translated
