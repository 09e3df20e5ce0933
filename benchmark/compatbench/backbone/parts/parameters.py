"""The parameters of a tower: names that all towers share, and towers with replaced parameters.

The names are CLIP's, such as ``transformer.resblocks.0.ln_1.weight``. timm's towers use other
names, which are translated. A part that CLIP does not have, such as the norms inside attention and
MLP, keeps timm's name behind the block's (``transformer.resblocks.0.attn.norm.weight``).
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

    EVA's separate matrices of queries, keys and values become one (``attn.in_proj_weight``), and
    so do their biases if all three have one. Its projection becomes ``[d, e]``, like CLIP's.
    """

    def __init__(self, visual: nn.Module, timm: bool) -> None:
        self._parameters = {name: p.detach() for name, p in visual.named_parameters()}
        names: dict[str, tuple[str, ...]] = {}
        for name in self._parameters:
            common = _translate_timm(name) if timm else name
            names[common] = (name,)
        queries = [name for name in names if re.search(r"\.attn\.q_(weight|bias)$", name)]
        for query in queries:
            parts = [query.replace(".q_", f".{part}_") for part in "qkv"]
            if all(part in names for part in parts):
                joined = query.replace(".q_", ".in_proj_")
                names[joined] = tuple(names.pop(part)[0] for part in parts)
        self._names = names
        # The parameter that timm stores transposed.
        self._transposed = "proj" if timm else ""

    def read(self) -> dict[str, Tensor]:
        """Return all weights by their common names."""
        return {name: self._read(name) for name in self._names}

    def _read(self, name: str) -> Tensor:
        parts = [self._parameters[part] for part in self._names[name]]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        # timm's embeddings have leading dimensions of size 1.
        if name == "class_embedding":
            return tensor.reshape(tensor.shape[-1:])
        if name == "positional_embedding":
            return tensor.reshape(tensor.shape[-2:])
        if name == self._transposed:
            return tensor.T
        return tensor

    def write(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tower's own parameters for weights of common names."""
        parameters = {}
        for common, tensor in weights.items():
            names = self._names[common]
            if common == self._transposed:
                tensor = tensor.T
            for name, part in zip(names, tensor.chunk(len(names)), strict=True):
                parameters[name] = part.reshape(self._parameters[name].shape)
        return parameters


def _translate_timm(name: str) -> str:
    """Return the common name of a parameter of timm's."""
    for pattern, common in _TIMM:
        name = re.sub(pattern, common, name)
    return name


def change_tower(tower: Tower, **attributes: Any) -> Tower:
    """Return a copy of a tower with some attributes changed; its weights are read anew."""
    changed = copy.copy(tower)
    vars(changed).pop("weights", None)
    vars(changed).update(attributes)
    return changed


def rotate_projection(
    weights: dict[str, Tensor], name: str, rotation: Tensor | None
) -> dict[str, Tensor]:
    """Return a tower's weights with the projection named ``name`` rotated, if it has one."""
    if rotation is None or name not in weights:
        return weights
    return weights | {name: weights[name] @ rotation.T.to(weights[name])}


def check_weights(weights: Mapping[str, Tensor], known: Mapping[str, Tensor], tower: str) -> None:
    """Raise ``CompatbenchError`` for weights that a tower lacks or has in another shape."""
    for name, tensor in weights.items():
        if name not in known:
            raise CompatbenchError(f"the {tower} tower has no weight '{name}'")
        if tensor.shape != known[name].shape:
            raise CompatbenchError(
                f"the {tower} tower's weight '{name}' has shape {list(known[name].shape)}, "
                f"not {list(tensor.shape)}"
            )


def replace_parameters(module: ModuleType, parameters: Mapping[str, Tensor]) -> ModuleType:
    """Return a module that shares everything with the given one but the named parameters.

    Unlike ``torch.func.functional_call``, the change is permanent: a checkpointed piece that is
    computed again during the backward pass uses the same parameters.
    """
    if not parameters:
        return module
    own = {name: parameters[name] for name in module._parameters.keys() & parameters.keys()}
    nested: dict[str, dict[str, Tensor]] = {}
    for name, tensor in parameters.items():
        part, _, rest = name.partition(".")
        nested.setdefault(part, {})[rest] = tensor
    children: dict[str, nn.Module | None] = {}
    for name, child in module._modules.items():
        if child is None:
            children[name] = None
        else:
            children[name] = replace_parameters(child, nested.get(name, {}))
    changed = copy.copy(module)
    vars(changed).update(_parameters=module._parameters | own, _modules=children)
    return changed
