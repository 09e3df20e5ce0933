"""Gives the tensors of a checkpoint the names that open_clip's model has for them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from compatbench.errors import BackboneError

# Numbers that OpenAI's archives keep among the weights.
_NUMBERS = ("input_resolution", "context_length", "vocab_size")
_TEXT = ("positional_embedding", "text_projection")
_TEXT_PARTS = ("token_embedding.", "transformer.", "ln_final.")
_BUFFERS = ("attn_mask", "position_ids")
_SHOWN = 3


def is_openai(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors come from one of OpenAI's archives."""
    return all(name in tensors for name in _NUMBERS)


def fit_tensors(tensors: Mapping[str, Tensor], model: nn.Module, what: str) -> dict[str, Tensor]:
    """The tensors by the model's names; only the shape of a single number may change.

    Knows plain CLIP's names (OpenAI, LAION), those with a separate text tower (``text.``),
    and those of EVA-CLIP's authors, which timm translates.

    Args:
        what: the file and the backbone, for the message.

    Raises:
        BackboneError: they are of another architecture.
    """
    wanted = model.state_dict()
    found = {name: t for name, t in tensors.items() if name not in _NUMBERS}
    if "visual.blocks.0.norm1.weight" in found and "visual.trunk.pos_embed" in wanted:
        found = _translate_eva(found, model, what)
    if "text.positional_embedding" in wanted and "positional_embedding" in found:
        found = {_into_text(name): t for name, t in found.items()}
    elif "positional_embedding" in wanted and "text.positional_embedding" in found:
        found = {name.removeprefix("text."): t for name, t in found.items()}
    # Buffers that models of other versions kept in their files.
    found = {n: t for n, t in found.items() if n in wanted or n.split(".")[-1] not in _BUFFERS}
    for name in ("logit_scale", "logit_bias"):
        if name in wanted and name in found and found[name].numel() == wanted[name].numel() == 1:
            found[name] = found[name].reshape(wanted[name].shape)
    for name in (name for name in wanted if name in found):
        _check_shape(name, found[name], wanted[name], what)
    problems = []
    for word, names in (
        ("lack", [name for name in wanted if name not in found]),
        ("also hold", [name for name in found if name not in wanted]),
    ):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            problems.append(f"{word} {', '.join(names[:_SHOWN])}{more}")
    if problems:
        raise _mismatch(what, f"they {', and '.join(problems)}")
    return found


def _into_text(name: str) -> str:
    return f"text.{name}" if name in _TEXT or name.startswith(_TEXT_PARTS) else name


def _translate_eva(tensors: dict[str, Tensor], model: nn.Module, what: str) -> dict[str, Tensor]:
    from timm.models.eva import checkpoint_filter_fn

    trunk: nn.Module = model.visual.trunk  # type: ignore[assignment, union-attr]
    # timm would silently resize the positions of another image size.
    for part in ("pos_embed", "patch_embed.proj.weight"):
        name = f"visual.{part}"
        if name not in tensors:
            raise _mismatch(what, f"they lack {name}")
        _check_shape(name, tensors[name], trunk.state_dict()[part], what)
    image = {name: t for name, t in tensors.items() if name.startswith("visual.")}
    rest = {name: t for name, t in tensors.items() if name not in image}
    translated = checkpoint_filter_fn(image, trunk)
    return rest | {f"visual.trunk.{name}": t for name, t in translated.items()}


def _check_shape(name: str, found: Tensor, wanted: Tensor, what: str) -> None:
    if found.shape != wanted.shape:
        raise _mismatch(
            what, f"{name} is {list(found.shape)} there, and {list(wanted.shape)} in the model"
        )


def _mismatch(what: str, why: str) -> BackboneError:
    return BackboneError(
        f"{what}: the weights do not fit the architecture: {why}",
        "give the model that they were made for",
    )
