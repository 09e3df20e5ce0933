"""Build a frozen model and its tokenizer from a backbone card; no code in a file runs."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from compatbench.backbone.hf import build_hf_model, load_hf_tokenizer, needs_transformers
from compatbench.backbone.load.backbone_names import (
    model_config,
    open_clip_name,
    preprocessing,
    quiet,
)
from compatbench.backbone.load.checkpoint import fit_weights
from compatbench.backbone.load.mini_towers import register_mini_towers
from compatbench.backbone.load.tokenizer_files import find_merges, locate_tokenizer
from compatbench.backbone.load.weights import locate_weights
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError
from compatbench.files.project_folders import tasks_folder
from compatbench.messages import first_line

MAX_MERGES = 32 << 20  # bytes, unpacked; CLIP's are 3 MB


# The functions that draw new weights. Drawing takes longer than reading them from a file.
_RANDOM = {
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    torch.Tensor.erfinv_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
}


def allow_tf32(allowed: bool) -> None:
    """Let CUDA compute float32 products in TF32, or forbid it, in the whole process."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    with warnings.catch_warnings():  # newer versions of torch warn that the name has changed
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = allowed  # convolutions; PyTorch's default is True


class _Unfilled(TorchFunctionMode):
    """A context in which new weights are not initialised, as all are read from a file later."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        named = named or {}
        if function in _RANDOM:
            return arguments[0] if arguments else named["tensor"]
        if function is torch.randn:
            function = torch.empty
        return function(*arguments, **named)


def build_model(card: BackboneCard) -> nn.Module:
    """Return the card's model with its weights, float32, in evaluation mode, without gradients."""
    if card.provider == "hf":
        return build_hf_model(card)
    path = locate_weights(card)
    with _Unfilled():
        model = build_architecture(card)
    model.load_state_dict(fit_weights(model, path, card), strict=True)
    return model.eval().requires_grad_(False)


def build_architecture(card: BackboneCard, device: str = "cpu") -> nn.Module:
    """Return the card's model with random weights and its own preprocessing.

    On the device ``meta`` it takes no memory.

    Raises:
        BackboneError: open_clip cannot build the model.
    """
    import open_clip

    if card.provider == "hf":
        with torch.device(device):
            return build_hf_model(card, weights=False)
    register_mini_towers(tasks_folder())
    name = open_clip_name(card)
    with quiet(), torch.device(device):
        try:
            return open_clip.create_model(
                name,
                pretrained=None,
                load_weights=False,
                precision="fp32",
                device=device,
                force_preprocess_cfg=preprocessing(card),
                pretrained_text=False,
            )
        except (RuntimeError, ValueError, TypeError, KeyError, OSError, ImportError) as error:
            raise BackboneError(
                f"backbone '{card.name}': open_clip cannot build '{name}': {first_line(error)}",
                "correct the name, or the open_clip_config.json of the folder",
            ) from None


def build_tokenizer(card: BackboneCard, context_length: int, download: bool = True) -> Any:
    """Return the model's tokenizer: byte pairs with the card's merges or CLIP's, or its own.

    Args:
        download: fetch the files of its own tokenizer if they are not on this machine.

    Raises:
        MissingWeights: its own tokenizer is not on this machine.
        BackboneError: the tokenizer is damaged, or needs a package that is not here.
    """
    import open_clip
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    merges = find_merges(card)
    if merges is not None:
        _check_merges(merges)
        return SimpleTokenizer(bpe_path=str(merges), context_length=context_length)
    if card.provider == "hf":
        return load_hf_tokenizer(card, context_length)
    name = open_clip_name(card)
    if card.config is not None and card.config not in open_clip.list_models():
        return SimpleTokenizer(context_length=context_length)  # a model that was made in memory
    folder = locate_tokenizer(card, download)
    try:
        with quiet():
            if folder is None:
                return open_clip.get_tokenizer(name, context_length=context_length)
            # By the name of its repository, transformers would not find it without a network.
            settings: dict[str, Any] = model_config(card)["text_cfg"]
            return HFTokenizer(
                str(folder),
                context_length=context_length,
                tokenizer_mode=settings.get("tokenizer_mode"),
                **settings.get("tokenizer_kwargs", {}),
            )
    except ImportError:
        raise needs_transformers(card) from None
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"backbone '{card.name}': the tokenizer in {folder or card.path} cannot be read: "
            f"{first_line(error)}",
            "fetch its files again",
        ) from None


def _check_merges(path: Path) -> None:
    """Raise ``BackboneError`` for a damaged file of merges, or one far larger than CLIP's."""
    try:
        with gzip.open(path) as file:
            length = len(file.read(MAX_MERGES + 1))
    except (OSError, EOFError, zlib.error) as error:
        problem = f"cannot read {path}: {first_line(error)}"
        raise BackboneError(problem, "restore the file (git checkout, or reinstall)") from None
    if length > MAX_MERGES:
        problem = f"{path} unpacks to more than {MAX_MERGES:,} bytes"
        raise BackboneError(problem, "give the merges of a tokenizer of CLIP's kind")


@dataclass(frozen=True)
class TextTokens:
    """The translation of texts to token ids."""

    encode: Callable[[str], list[int]]  # returns the ids of a text, without special tokens
    start: tuple[int, ...]  # ids before every text; none for towers such as SigLIP's
    end: tuple[int, ...]  # ids after it
    pad: int  # id that fills the context


def examine_tokenizer(tokenizer: Any, name: str) -> TextTokens:
    """Return the ids of a tokenizer of open_clip's.

    Raises:
        BackboneError: the tokenizer is of another kind, or does more than add special tokens
            before and after a text.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    if isinstance(tokenizer, SimpleTokenizer):
        return TextTokens(
            encode=lambda text: list(tokenizer.encode(text)),
            start=(tokenizer.sot_token_id,),
            end=(tokenizer.eot_token_id,),
            pad=0,
        )
    refusal = f"backbone '{name}': its tokenizer cannot be used"
    fix = "use a model with CLIP's tokenizer or one of transformers'"
    if not isinstance(tokenizer, HFTokenizer) or tokenizer.tokenizer_mode:
        kind = getattr(tokenizer, "tokenizer_mode", "") or type(tokenizer).__name__
        raise BackboneError(f"{refusal}: '{kind}' is not supported", fix)
    inner: Any = tokenizer.tokenizer

    def encode(text: str, special: bool = False) -> list[int]:
        return list(inner(tokenizer.clean_fn(text), add_special_tokens=special).input_ids)

    # Find the special tokens around a text by comparing it with and without them.
    bare = encode("a")
    whole = encode("a", special=True)
    places = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
    if not bare or len(places) != 1 or inner.pad_token_id is None:
        why = "special tokens change how it splits a text, or it has no padding"
        raise BackboneError(f"{refusal}: {why}", fix)
    if tokenizer.strip_sep_token:  # open_clip replaces the separator with 0
        whole = [0 if token == inner.sep_token_id else token for token in whole]
    start = places[0]
    end = start + len(bare)
    return TextTokens(encode, tuple(whole[:start]), tuple(whole[end:]), inner.pad_token_id)
