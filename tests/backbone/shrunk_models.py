"""The models of published releases with the same kinds of towers, small and of random weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import timm
import torch
from open_clip.model import CLIP, CustomTextCLIP
from tiny_models import VOCABULARY, randomise, wrap
from tiny_tokenizers import write_tokenizer

from compatbench.backbone import Backbone
from compatbench.backbone.load import read_backbone
from compatbench.data.cards import backbone_cards

NARROWER = 16  # times, all widths: equal ones stay equal
SHORTER = 6  # times, the towers
CONVOLVED = "vit_base_mci_224"  # the convolutions before MobileCLIP's blocks have one width


def shrink(name: str, folder: Path) -> Backbone:
    """The model of a card, with its tokenizer's kind, fewer and narrower blocks, and small images.

    ``folder`` gets the files of tokenizers that are not CLIP's.
    """
    release: Any = backbone_cards.read(name)
    config: Any = copy.deepcopy(open_clip.get_model_config(release.config))
    image, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] //= NARROWER
    text |= dict(width=text["width"] // NARROWER, heads=2, layers=text["layers"] // SHORTER)
    text["vocab_size"] = 16 if "hf_tokenizer_name" in text else VOCABULARY
    if "eos_id" in text:
        text["eos_id"] = 3  # of the tokenizer that is written below
    if "timm_model_name" in image:
        build, small = timm.create_model, _small_timm_tower(image)
    else:
        width, build, small = image["width"] // NARROWER, timm.create_model, {}
        image |= dict(width=width, head_width=width // 2, layers=image["layers"] // SHORTER)
        image["image_size"] = 2 * image["patch_size"]
    custom = config.pop("custom_text", False)
    with patch.object(timm, "create_model", lambda *a, **options: build(*a, **options | small)):
        model: Any = (CustomTextCLIP if custom else CLIP)(**config)
    bias = model._parameters.pop("logit_bias", None)  # as the configuration has it
    randomise(model, seed=sum(map(ord, name)) % 10)
    model.logit_bias = bias
    side = image["image_size"]
    model.visual.preprocess_cfg = dict(size=side, mean=(0.5,) * 3, std=(0.25,) * 3)
    if "hf_tokenizer_name" not in text:
        return wrap(model, name)
    write_tokenizer(folder, "clip" if "eos_id" in text else "siglip")
    beside = {"text_cfg": text | dict(hf_tokenizer_name="beside")}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config | beside}))
    card = read_backbone(f"local-dir:{folder}")
    return Backbone(card.model_copy(update={"name": name}), model, torch.device("cpu"))


def _small_timm_tower(image: dict[str, Any]) -> dict[str, Any]:
    """Settings of timm's for a smaller tower of the same name."""
    name = image["timm_model_name"]
    with torch.device("meta"):
        whole: Any = timm.create_model(name)
    patch_size = whole.patch_embed.img_size[0] // whole.patch_embed.grid_size[0]
    image["image_size"] = 2 * patch_size
    small = dict(img_size=2 * patch_size, depth=len(whole.blocks) // SHORTER, num_heads=2)
    return small if name == CONVOLVED else small | dict(embed_dim=whole.embed_dim // NARROWER)
