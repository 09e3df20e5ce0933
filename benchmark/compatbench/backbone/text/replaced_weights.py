"""A text tower's weights by name, and the same tower with some of them replaced.

This is how a method changes the tower itself (biases, low-rank updates): the frozen model
is never modified, and gradients reach whatever the replacements were computed from.
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
    weights = {
        prefix + name: tensor.detach()
        for prefix, module in _modules(anatomy).items()
        for name, tensor in module.named_parameters()
    }
    if isinstance(anatomy.projection, Tensor):
        weights[_PROJECTION] = anatomy.projection.detach()
    return weights


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
    replaced = {
        prefix: replace_parameters(module, _under(prefix, weights))
        for prefix, module in _modules(anatomy).items()
    }
    projection = weights.get(_PROJECTION, anatomy.projection)
    return dataclasses.replace(
        anatomy,
        blocks=tuple(replaced[f"{_BLOCK}{i}."] for i in range(len(anatomy.blocks))),
        ln_final=replaced[_FINAL],
        projection=replaced.get(f"{_PROJECTION}.", projection),
    )


def _modules(anatomy: Anatomy) -> dict[str, nn.Module]:
    """The modules that hold the weights, by what their parameters' names begin with."""
    modules: dict[str, nn.Module] = {f"{_BLOCK}{i}.": b for i, b in enumerate(anatomy.blocks)}
    modules[_FINAL] = anatomy.ln_final
    if isinstance(anatomy.projection, nn.Module):
        modules[f"{_PROJECTION}."] = anatomy.projection
    return modules


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
