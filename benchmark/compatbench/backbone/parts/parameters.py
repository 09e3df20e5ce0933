"""The parameters of a tower: the names that all towers share, and a tower with others in place.

The names are CLIP's, such as ``transformer.resblocks.0.ln_1.weight``. timm's towers have others;
what CLIP has not, such as the norms inside its attention and MLP, keeps them behind the block's
(``transformer.resblocks.0.attn.norm.weight``).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from compatbench.errors import CompatbenchError

ModuleType = TypeVar("ModuleType", bound=nn.Module)
Tower = TypeVar("Tower")

_TIMM = (
    (r"^trunk\.patch_embed\.proj\.", "conv1."),
    (r"^trunk\.cls_token$", "class_embedding"),
    (r"^trunk\.pos_embed$", "positional_embedding"),
    (r"^trunk\.norm_pre\.", "ln_pre."),
    (r"^trunk\.blocks\.", "transformer.resblocks."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"\.attn\.qkv\.", ".attn.in_proj_"),
    (r"\.attn\.([qkv])_proj\.", r".attn.\1_"),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.(?:gamma_([12])|ls([12])\.gamma)$", r".ls_\1\2.gamma"),
    (r"^trunk\.(?:fc_)?norm\.", "ln_post."),
    (r"^(?:trunk\.head|head\.proj)\.weight$", "proj"),
    (r"^(?:trunk\.head|head\.proj)\.bias$", "proj_bias"),
)


class CommonNames:
    """The common names of a tower's parameters.

    EVA's separate matrices of queries, keys and values are one here (``attn.in_proj_weight``), as
    are their biases where all three have one; and its projection is ``[d, e]``, as CLIP's.
    """

    def __init__(self, visual: nn.Module, timm: bool) -> None:
        self._parameters = {name: p.detach() for name, p in visual.named_parameters()}
        names: dict[str, tuple[str, ...]] = {}
        names |= {_common(name) if timm else name: (name,) for name in self._parameters}
        for first in [name for name in names if re.search(r"\.attn\.q_(weight|bias)$", name)]:
            parts = [first.replace(".q_", f".{part}_") for part in "qkv"]
            if all(part in names for part in parts):
                joined = first.replace(".q_", ".in_proj_")
                names[joined] = tuple(names.pop(part)[0] for part in parts)
        self._names, self._turned = names, "proj" if timm else ""

    def read(self) -> dict[str, Tensor]:
        """All weights by their common names."""
        return {name: self._read(name) for name in self._names}

    def _read(self, name: str) -> Tensor:
        parts = [self._parameters[part] for part in self._names[name]]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        if name in ("class_embedding", "positional_embedding"):
            return tensor.reshape(tensor.shape[-1:] if name[0] == "c" else tensor.shape[-2:])
        return tensor.T if name == self._turned else tensor

    def write(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tower's own parameters for weights of common names."""
        parameters = {}
        for common, tensor in weights.items():
            names = self._names[common]
            parts = (tensor.T if common == self._turned else tensor).chunk(len(names))
            for name, part in zip(names, parts, strict=True):
                parameters[name] = part.reshape(self._parameters[name].shape)
        return parameters


def _common(name: str) -> str:
    for pattern, common in _TIMM:
        name = re.sub(pattern, common, name)
    return name


def change_tower(tower: Tower, **attributes: Any) -> Tower:
    """A copy of a tower with other values of some attributes, and so perhaps other weights."""
    changed = copy.copy(tower)
    vars(changed).pop("weights", None)
    vars(changed).update(attributes)
    return changed


def rotate_projection(
    weights: dict[str, Tensor], name: str, rotation: Tensor | None
) -> dict[str, Tensor]:
    """The weights of a tower with its projection, if it has one, into the rotated space."""
    if rotation is None or name not in weights:
        return weights
    return weights | {name: weights[name] @ rotation.T.to(weights[name])}


def check_weights(weights: Mapping[str, Tensor], known: Mapping[str, Tensor], tower: str) -> None:
    """Refuses weights that a tower has not, or has in another shape."""
    for name, tensor in weights.items():
        if name not in known:
            raise CompatbenchError(f"the {tower} tower has no weight '{name}'")
        if tensor.shape != known[name].shape:
            raise CompatbenchError(
                f"the {tower} tower's weight '{name}' has shape {list(known[name].shape)}, "
                f"not {list(tensor.shape)}"
            )


def replace_parameters(module: ModuleType, parameters: Mapping[str, Tensor]) -> ModuleType:
    """A module that shares everything with the given one but the parameters named.

    Unlike ``torch.func.functional_call`` it lasts: a checkpointed piece that is computed
    again during the backward pass sees the same parameters.
    """
    if not parameters:
        return module
    here = {name: parameters[name] for name in module._parameters.keys() & parameters.keys()}
    under: dict[str, dict[str, Tensor]] = {}
    for name, tensor in parameters.items():
        part, _, rest = name.partition(".")
        under.setdefault(part, {})[rest] = tensor
    children = {
        name: child and replace_parameters(child, under.get(name, {}))
        for name, child in module._modules.items()
    }
    changed = copy.copy(module)
    vars(changed).update(_parameters=module._parameters | here, _modules=children)
    return changed
