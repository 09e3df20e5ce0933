"""The towers of transformers' models, put the way that ``backbone/`` sees a tower.

A text tower is run from token embeddings by ``PlainTower``, through its own layers. Towers
of BERT's kind (ALIGN, BLIP) normalise what enters the first layer, which is taken as part
of that layer, and hide padding from all rows, which is why padding need not be computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compatbench.backbone.text.anatomy import Anatomy


@dataclass(frozen=True)
class Kind:
    """How one family of transformers' models is put together.

    Attributes:
        model: name of the class.
        text: from a model to the anatomy of its text tower.
        image: from a model and images ``[batch, 3, H, W]`` to features ``[batch, e]``.
        log_scale: from a model to the logarithm of its factor on cosine similarities.
    """

    model: str
    text: Callable[[Any], Anatomy]
    image: Callable[[Any, Tensor], Tensor]
    log_scale: Callable[[Any], Tensor]


class HuggingFaceModel(nn.Module):
    """A model of transformers with the parts that a backbone asks for."""

    def __init__(self, model: nn.Module, kind: Kind, preprocess_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.visual = _Visual(model, kind, preprocess_cfg)
        self.logit_scale = nn.Parameter(kind.log_scale(model).detach().clone())
        self._kind = kind

    def text_anatomy(self) -> Anatomy:
        """The parts of the text tower."""
        return self._kind.text(self.visual.model)


class _Visual(nn.Module):
    def __init__(self, model: nn.Module, kind: Kind, preprocess_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.preprocess_cfg = preprocess_cfg
        self._kind = kind

    def forward(self, images: Tensor) -> Tensor:
        return self._kind.image(self.model, images)


class _Heads(nn.Module):
    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads


class _Layer(nn.Module):
    """A layer, called as open_clip's blocks are; with a norm before it, for the first of BERT's."""

    def __init__(self, layer: nn.Module, heads: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        self.attn = _Heads(heads)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        if self.norm is not None:
            x = self.norm(x)
        if attn_mask is not None:
            # One mask for all, or one for every head of every text.
            attn_mask = (
                attn_mask[None, None]
                if attn_mask.ndim == 2
                else attn_mask.unflatten(0, (len(x), self.attn.num_heads))
            )
        out = self.layer(x, attention_mask=attn_mask)
        return out[0] if isinstance(out, tuple) else out


def _anatomy(
    embeddings: nn.Module,
    layers: Any,
    config: Any,
    *,
    norm: nn.Module | None = None,
    **parts: Any,
) -> Anatomy:
    heads = config.num_attention_heads
    words: Any = getattr(embeddings, "token_embedding", None)
    places: Any = getattr(embeddings, "position_embedding", None)
    if words is None:
        words, places = embeddings.word_embeddings, embeddings.position_embeddings
    positions = places.weight
    if (types := getattr(embeddings, "token_type_embeddings", None)) is not None:
        positions = positions + types.weight[0]
    length = len(positions)
    causal = parts.pop("causal", False)
    mask = torch.full((length, length), -torch.inf, dtype=positions.dtype).triu(1)
    return Anatomy(
        token_embedding=words,
        positions=positions,
        blocks=tuple(
            _Layer(layer, heads, norm if i == 0 else None) for i, layer in enumerate(layers)
        ),
        mask=mask.to(positions.device) if causal else None,
        class_token=None,
        shifted_class_mask=False,
        pad=config.pad_token_id or 0,
        standard_blocks=False,
        **parts,
    )


def _clip_text(model: Any) -> Anatomy:
    text = model.text_model
    return _anatomy(
        text.embeddings,
        text.encoder.layers,
        model.config.text_config,
        causal=True,
        ln_final=text.final_layer_norm,
        projection=model.text_projection,
        pool="eos",
        pad_mask=False,
    )


def _siglip_text(model: Any) -> Anatomy:
    text = model.text_model
    return _anatomy(
        text.embeddings,
        text.encoder.layers,
        model.config.text_config,
        ln_final=text.final_layer_norm,
        projection=text.head,
        pool="last",
        pad_mask=False,
    )


def _bert_text(text: Any, config: Any, projection: nn.Module) -> Anatomy:
    """A class token first; its row after the last layer is projected (not BERT's pooler)."""
    return _anatomy(
        text.embeddings,
        text.encoder.layer,
        config,
        norm=text.embeddings.LayerNorm,
        ln_final=getattr(text, "layernorm", nn.Identity()),
        projection=projection,
        pool="first",
        pad_mask=True,
        pads_by_place=True,
    )


KINDS = {
    "clip": Kind(
        "CLIPModel",
        _clip_text,
        lambda m, x: m.visual_projection(m.vision_model(pixel_values=x).pooler_output),
        lambda m: m.logit_scale,
    ),
    "siglip": Kind(
        "SiglipModel",
        _siglip_text,
        lambda m, x: m.vision_model(pixel_values=x).pooler_output,
        lambda m: m.logit_scale.reshape(()),
    ),
    "align": Kind(
        "AlignModel",
        lambda m: _bert_text(m.text_model, m.config.text_config, m.text_projection),
        lambda m, x: m.vision_model(pixel_values=x).pooler_output,
        lambda m: -m.temperature.log(),
    ),
    "flava": Kind(
        "FlavaModel",
        lambda m: _bert_text(m.text_model, m.config.text_config, m.text_projection),
        lambda m, x: m.image_projection(m.image_model(pixel_values=x).last_hidden_state[:, 0]),
        lambda m: m.logit_scale.clamp(0, math.log(100)),
    ),
    # Its published weights leave the temperature out; the configuration has its initial value.
    "blip": Kind(
        "BlipForImageTextRetrieval",
        lambda m: _bert_text(m.text_encoder, m.config.text_config, m.text_proj),
        lambda m, x: m.vision_proj(m.vision_model(pixel_values=x).last_hidden_state[:, 0]),
        lambda m: torch.tensor(float(m.config.logit_scale_init_value)),
    ),
}
