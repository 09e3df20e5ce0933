"""A text tower's weights by name, and the same tower with others in their place.

This is how a method changes the tower itself (biases, low-rank updates): the frozen model
is never written to, and gradients reach whatever the replacements were computed from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from compatbench.backbone.text.anatomy import Anatomy
from compatbench.errors import CompatbenchError

ModuleType = TypeVar("ModuleType", bound=nn.Module)

_BLOCK = "transformer.resblocks."
_FINAL = "ln_final."
_PROJECTION = "text_projection"


def named_weights(anatomy: Anatomy) -> dict[str, Tensor]:
    """All weights behind the embeddings, by open_clip's names within the text tower.

    The same part has the same name in every model, such as
    ``transformer.resblocks.0.attn.in_proj_bias``.
    """
    weights: dict[str, Tensor] = {}
    for i, block in enumerate(anatomy.blocks):
        weights |= {f"{_BLOCK}{i}.{name}": tensor for name, tensor in block.named_parameters()}
    weights |= {_FINAL + name: tensor for name, tensor in anatomy.ln_final.named_parameters()}
    if isinstance(anatomy.projection, Tensor):
        weights[_PROJECTION] = anatomy.projection
    elif anatomy.projection is not None:
        parts = anatomy.projection.named_parameters()
        weights |= {f"{_PROJECTION}.{name}": tensor for name, tensor in parts}
    return {name: tensor.detach() for name, tensor in weights.items()}


def replace_weights(anatomy: Anatomy, weights: Mapping[str, Tensor]) -> Anatomy:
    """The same tower with some weights replaced; the model itself is left as it is.

    Raises:
        CompatbenchError: the tower has no weight of such a name and shape.
    """
    known = named_weights(anatomy)
    for name, tensor in weights.items():
        if name not in known:
            raise CompatbenchError(f"the text tower has no weight '{name}'")
        if tensor.shape != known[name].shape:
            raise CompatbenchError(
                f"the text tower's weight '{name}' has shape {list(known[name].shape)}, "
                f"not {list(tensor.shape)}"
            )
    blocks = tuple(
        replace_parameters(block, _under(f"{_BLOCK}{i}.", weights))
        for i, block in enumerate(anatomy.blocks)
    )
    ln_final = replace_parameters(anatomy.ln_final, _under(_FINAL, weights))
    projection = anatomy.projection
    if isinstance(projection, nn.Module):
        projection = replace_parameters(projection, _under(f"{_PROJECTION}.", weights))
    else:
        projection = weights.get(_PROJECTION, projection)
    return dataclasses.replace(anatomy, blocks=blocks, ln_final=ln_final, projection=projection)


def replace_parameters(module: ModuleType, parameters: Mapping[str, Tensor]) -> ModuleType:
    """A module that shares everything with the given one but the parameters named.

    Unlike ``torch.func.functional_call`` it lasts: a checkpointed piece that is computed
    again during the backward pass sees the same parameters.
    """
    if not parameters:
        return module
    copy = module.__new__(type(module))
    copy.__dict__ = module.__dict__ | {
        "_parameters": dict(module._parameters),
        "_modules": dict(module._modules),
    }
    for name, child in module.named_children():
        copy._modules[name] = replace_parameters(child, _under(f"{name}.", parameters))
    for name in module._parameters.keys() & parameters.keys():
        copy._parameters[name] = parameters[name]  # type: ignore[assignment]
    return copy


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
