"""The towers of transformers' models, with the interface that a backbone expects.

A text tower is run from token embeddings by ``PlainTower``, through its own layers. Towers
of BERT's kind (ALIGN, BLIP) normalise the input of the first layer, which is treated as part
of that layer, and hide padding from all rows, so padding need not be computed.
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
class Family:
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

    def __init__(self, model: nn.Module, family: Family, preprocess_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.visual = _Visual(model, family, preprocess_cfg)
        self.logit_scale = nn.Parameter(family.log_scale(model).detach().clone())
        self._family = family

    def text_anatomy(self) -> Anatomy:
        """The parts of the text tower."""
        return self._family.text(self.visual.model)


class _Visual(nn.Module):
    def __init__(self, model: nn.Module, family: Family, preprocess_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.preprocess_cfg = preprocess_cfg
        self._family = family

    def forward(self, images: Tensor) -> Tensor:
        return self._family.image(self.model, images)


class _Heads(nn.Module):
    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads


class _Layer(nn.Module):
    """A layer, called like open_clip's blocks; ``norm`` comes before the first of BERT's."""

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


def _encoder_text(model: Any, *, projection: nn.Module, causal: bool, pool: str) -> Anatomy:
    """CLIP's and SigLIP's text towers."""
    text, config = model.text_model, model.config.text_config
    positions = text.embeddings.position_embedding.weight
    mask = None
    if causal:
        mask = torch.full((len(positions),) * 2, -torch.inf, dtype=positions.dtype).triu(1)
        mask = mask.to(positions.device)
    return Anatomy(
        token_embedding=text.embeddings.token_embedding,
        positions=positions,
        blocks=tuple(_Layer(layer, config.num_attention_heads) for layer in text.encoder.layers),
        ln_final=text.final_layer_norm,
        projection=projection,
        mask=mask,
        pool=pool,
        pad=config.pad_token_id or 0,
    )


def _bert_text(text: Any, config: Any, projection: nn.Module) -> Anatomy:
    """BERT: a class token comes first; its row after the last layer is projected (no pooler)."""
    embeddings, heads = text.embeddings, config.num_attention_heads
    positions = embeddings.position_embeddings.weight
    if (types := getattr(embeddings, "token_type_embeddings", None)) is not None:
        positions = positions + types.weight[0]
    first, *others = text.encoder.layer
    return Anatomy(
        token_embedding=embeddings.word_embeddings,
        positions=positions,
        blocks=(
            _Layer(first, heads, embeddings.LayerNorm),
            *(_Layer(layer, heads) for layer in others),
        ),
        ln_final=getattr(text, "layernorm", nn.Identity()),
        projection=projection,
        mask=None,
        pool="first",
        pad=config.pad_token_id or 0,
        pad_mask=True,
        pads_by_place=True,
    )


FAMILIES = {
    "clip": Family(
        "CLIPModel",
        lambda m: _encoder_text(m, projection=m.text_projection, causal=True, pool="eos"),
        lambda m, x: m.visual_projection(m.vision_model(pixel_values=x).pooler_output),
        lambda m: m.logit_scale,
    ),
    "siglip": Family(
        "SiglipModel",
        lambda m: _encoder_text(m, projection=m.text_model.head, causal=False, pool="last"),
        lambda m, x: m.vision_model(pixel_values=x).pooler_output,
        lambda m: m.logit_scale.reshape(()),
    ),
    "align": Family(
        "AlignModel",
        lambda m: _bert_text(m.text_model, m.config.text_config, m.text_projection),
        lambda m, x: m.vision_model(pixel_values=x).pooler_output,
        lambda m: -m.temperature.log(),
    ),
    "flava": Family(
        "FlavaModel",
        lambda m: _bert_text(m.text_model, m.config.text_config, m.text_projection),
        lambda m, x: m.image_projection(m.image_model(pixel_values=x).last_hidden_state[:, 0]),
        lambda m: m.logit_scale.clamp(0, math.log(100)),
    ),
    # Its published weights leave the temperature out; the configuration has its initial value.
    "blip": Family(
        "BlipForImageTextRetrieval",
        lambda m: _bert_text(m.text_encoder, m.config.text_config, m.text_proj),
        lambda m, x: m.vision_proj(m.vision_model(pixel_values=x).last_hidden_state[:, 0]),
        lambda m: torch.tensor(float(m.config.logit_scale_init_value)),
    ),
}
