"""The names of transformers' CLIPModel and SiglipModel, and those of open_clip for the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

TOWERS = {"vision": "image", "text": "text"}
FIRST_LAYER = "vision_model.embeddings.patch_embedding.weight"
PROJECTIONS = ("q", "k", "v")
# The parts of a block, and other tensors of the towers.
_IN_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
}
_BESIDE = {
    "vision_model.embeddings.class_embedding": ("image", "class_embedding"),
    "vision_model.embeddings.patch_embedding.weight": ("image", "conv1.weight"),
    "vision_model.embeddings.patch_embedding.bias": ("image", "conv1.bias"),
    "vision_model.embeddings.position_embedding.weight": ("image", "positional_embedding"),
    "text_model.embeddings.token_embedding.weight": ("text", "token_embedding.weight"),
    "text_model.embeddings.position_embedding.weight": ("text", "positional_embedding"),
}
_NORMS = {
    "vision_model.pre_layrnorm": ("image", "ln_pre"),
    "vision_model.post_layernorm": ("image", "ln_post"),
    "text_model.final_layer_norm": ("text", "ln_final"),
}
_BLOCK = r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)"


class Place(NamedTuple):
    """The place of a tensor of transformers in a tower of open_clip.

    Attributes:
        tower: ``text`` or ``image``.
        name: the name of the tensor in the tower.
        third: 0, 1 or 2 for q, k and v, which are thirds of its rows; else None.
        transposed: True if rows and columns are exchanged.
    """

    tower: str
    name: str
    third: int | None = None
    transposed: bool = False


def find_place(name: str) -> Place | None:
    """Return the place of a tensor in open_clip's towers; None if it has none there."""
    if name == "text_projection.weight":
        return Place("text", "text_projection", transposed=True)
    if name == "visual_projection.weight":
        return Place("image", "proj", transposed=True)
    if name in _BESIDE:
        return Place(*_BESIDE[name])
    path, _, kind = name.rpartition(".")
    if path in _NORMS:
        tower, norm = _NORMS[path]
        return Place(tower, f"{norm}.{kind}")
    match = re.fullmatch(_BLOCK, name)
    if match is None:
        return None
    tower, block, part, kind = match.groups()
    start = f"transformer.resblocks.{block}."
    projection = re.fullmatch(r"self_attn\.([qkv])_proj", part)
    if projection is not None:
        third = PROJECTIONS.index(projection[1])
        return Place(TOWERS[tower], f"{start}attn.in_proj_{kind}", third)
    if part not in _IN_BLOCK:
        return None
    return Place(TOWERS[tower], f"{start}{_IN_BLOCK[part]}.{kind}")


def rename_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a CLIPModel by the names of open_clip.

    Tensors are returned as they are if they have other names than a CLIPModel's.
    """
    prefixes = {name.removesuffix(FIRST_LAYER) for name in tensors if name.endswith(FIRST_LAYER)}
    if len(prefixes) != 1:
        return dict(tensors)
    prefix = prefixes.pop()
    renamed: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for whole_name, tensor in tensors.items():
        name = whole_name.removeprefix(prefix)
        if name.endswith("position_ids"):  # a buffer
            continue
        place = find_place(name)
        if place is None:
            renamed[name] = tensor
            continue
        new_name = f"visual.{place.name}" if place.tower == "image" else place.name
        if place.third is not None:
            thirds.setdefault(new_name, {})[place.third] = tensor
        else:
            renamed[new_name] = tensor.T.contiguous() if place.transposed else tensor
    for new_name, parts in thirds.items():
        renamed[new_name] = torch.cat([parts[number] for number in sorted(parts)])
    return renamed
