"""CLIP and SigLIP of transformers, assembled from open_clip's own parts.

Their towers are then of a known kind, so a method can act in them as in open_clip's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from open_clip.transformer import (
    QuickGELU,
    ResidualAttentionBlock,
    TextTransformer,
    VisionTransformer,
)
from torch import Tensor, nn


class SiglipVision(VisionTransformer):
    """SigLIP's image tower: no class token, no norm before the first block, pooled by attention."""

    def _embeds(self, x: Tensor) -> Tensor:
        patches = self.conv1(x).flatten(2).mT
        return patches + self.positional_embedding.to(x.dtype)

    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.attn_pool is not None
        tokens = self.ln_post(x)
        return self.attn_pool(tokens), tokens


class OpenClipModel(nn.Module):
    """A ``CLIPModel`` or ``SiglipModel`` with the names and parts that open_clip's models have."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        # CLIP has projections without a bias; SigLIP's towers have none beside them.
        projection = getattr(model, "visual_projection", None)
        text_projection = getattr(model, "text_projection", None)
        self.visual = convert_vision(model.vision_model, config.vision_config, projection)
        self.text = convert_text(model.text_model, config.text_config, text_projection)
        self.logit_scale = nn.Parameter(model.logit_scale.detach().clone().reshape(()))


def convert_vision(vision: Any, config: Any, projection: nn.Linear | None) -> VisionTransformer:
    """Return an image tower: CLIP's, or without a projection SigLIP's.

    CLIP's has a class token, a norm before the first block and a projection; SigLIP's has none.
    """
    cls = SiglipVision if projection is None else VisionTransformer
    width = config.hidden_size
    with torch.device("meta"):  # all tensors that are made here are replaced below
        tower: Any = cls(config.image_size, config.patch_size, width, 1, 1, 1.0)
    embeddings = vision.embeddings
    tower.conv1 = embeddings.patch_embedding
    tower.positional_embedding = embeddings.position_embedding.weight
    tower.class_embedding = getattr(embeddings, "class_embedding", None)
    tower.ln_pre = getattr(vision, "pre_layrnorm", nn.Identity())
    tower.transformer.resblocks = _blocks(vision, config)
    tower.attn_pool = getattr(vision, "head", None)
    tower.ln_post = vision.post_layernorm
    if projection is None:
        tower.proj = None
    else:
        tower.proj = nn.Parameter(projection.weight.T.contiguous())
    return tower


def convert_text(text: Any, config: Any, projection: nn.Linear | None) -> TextTransformer:
    """Return a text tower: CLIP's, which is causal, or without a projection SigLIP's."""
    causal = projection is not None
    with torch.device("meta"):
        tower = TextTransformer(
            config.max_position_embeddings,
            config.vocab_size,
            config.hidden_size,
            1,
            1,
            pool_type="eos" if causal else "last",
            pad_id=config.pad_token_id or 0,
            no_causal_mask=not causal,
        )
    tower.token_embedding = text.embeddings.token_embedding
    tower.positional_embedding = text.embeddings.position_embedding.weight
    tower.transformer.resblocks = _blocks(text, config)
    tower.ln_final = text.final_layer_norm
    if projection is None:
        del tower.text_projection
        tower.text_projection = text.head
    else:
        tower.text_projection = nn.Parameter(projection.weight.T.contiguous())
        length = config.max_position_embeddings
        mask = tower.positional_embedding.new_full((length, length), -torch.inf).triu(1)
        tower.register_buffer("attn_mask", mask, persistent=False)
    return tower


def _blocks(tower: Any, config: Any) -> nn.ModuleList:
    return nn.ModuleList(convert_block(layer, config) for layer in tower.encoder.layers)


def convert_block(layer: Any, config: Any) -> ResidualAttentionBlock:
    """Return an encoder layer as a block: queries, keys and values get one common matrix."""
    attention = layer.self_attn
    mlp = layer.mlp
    with torch.device("meta"):
        block = ResidualAttentionBlock(config.hidden_size, config.num_attention_heads, 1.0)
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    block.ln_1 = layer.layer_norm1
    block.ln_2 = layer.layer_norm2
    block.attn.in_proj_weight = nn.Parameter(torch.cat([part.weight for part in parts]))
    block.attn.in_proj_bias = nn.Parameter(torch.cat([part.bias for part in parts]))
    block.attn.out_proj.weight = attention.out_proj.weight
    block.attn.out_proj.bias = attention.out_proj.bias
    activation = mlp.activation_fn
    if config.hidden_act == "quick_gelu":
        activation = QuickGELU()  # the class by which ``StandardBlock`` recognises QuickGELU
    block.mlp = nn.Sequential(OrderedDict(c_fc=mlp.fc1, gelu=activation, c_proj=mlp.fc2))
    return block
