"""Caches, low-rank updates and linear heads as their authors' code writes them, at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip_reference import encode_texts
from safetensors.torch import save_file
from torch import Tensor

from compatbench.backbone import Backbone, Labels

from .dassl_files import State, drawer

WEIGHT, BIAS = drawer(7, torch.float32)(5, 16), drawer(8, torch.float32)(5)
# Places of low-rank updates: tower, block, projection and rank.
Place = tuple[str, int, str, int]
EVERYWHERE = [(tower, i, part, 4) for tower in ("text", "image") for i in (0, 1) for part in "qkv"]
HF = {"text": "text_model", "image": "vision_model"}


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def save_cache(folder: Path, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Two shots of Tip-Adapter, as its script saves them: keys transposed, all in halves."""
    keys = F.normalize(drawer(1, torch.float32)(2 * classes, 16), dim=-1).half()
    values = F.one_hot(torch.arange(classes).repeat_interleave(2)).half()
    trained = torch.nn.Parameter(keys + drawer(2)(2 * classes, 16))
    save(folder / "keys_2shots.pt", keys.T)
    save(folder / "values_2shots.pt", values)
    save(folder / "best_F_2shots.pt", trained)
    return keys, values, trained.detach()


def adapter() -> State:
    draw = drawer(3, torch.float32)
    return {"fc.0.weight": draw(4, 16), "fc.2.weight": draw(16, 4)}


def residuals(backbone: Backbone, labels: Labels, which: slice = slice(1)) -> State:
    """TaskRes's residuals, and features of some templates, averaged as its code does."""
    with torch.no_grad():
        texts = [encode_texts(backbone, labels.fill(each)) for each in labels.templates[which]]
    base = torch.stack(texts).mean(0).float()
    residual = drawer(4, torch.float32)(len(labels), 16)
    return {"base_text_features": base, "text_feature_residuals": residual}


def low_rank(encoder: str, parts: str = "qkv", layers: int = 0, **said: Any) -> dict[str, Any]:
    """What CLIP-LoRA saves for text towers of 3 blocks and image towers of 2, of width 32."""
    draw, weights = drawer(5, torch.float32), {}
    for i in range(layers or {"both": 5, "text": 3, "vision": 2}[encoder]):
        names = ["proj" if part == "o" else f"{part}_proj" for part in parts]
        weights[f"layer_{i}"] = {
            name: {"w_lora_A": draw(2, 32), "w_lora_B": draw(32, 2)} for name in names
        }
    metadata = {"r": 2, "alpha": 1, "encoder": encoder, "params": [*parts], "position": "all"}
    return {"weights": weights, "metadata": metadata | said}


def save_peft(folder: Path, places: list[Place], **settings: Any) -> dict[Place, list[Tensor]]:
    """An adapter in PEFT's two files; A and B of each place."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, tensors, pairs = drawer(6, torch.float32), {}, {}
    for tower, block, part, rank in places:
        name = f"base_model.model.{HF[tower]}.encoder.layers.{block}.self_attn.{part}_proj"
        pairs[tower, block, part, rank] = [draw(rank, 32), draw(32, rank)]
        for letter, tensor in zip("AB", pairs[tower, block, part, rank], strict=True):
            tensors[f"{name}.lora_{letter}.weight"] = tensor
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": False}
    config |= {"modules_to_save": None, "base_model_name_or_path": "openai/clip-vit-base-patch16"}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return pairs


def save_head(path: Path, **arrays: Any) -> Path:
    """A linear head; scikit-learn's names, with ``classes``, in an npz."""
    if path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(value) for name, value in arrays.items()})
    elif path.suffix == ".safetensors":
        save_file(arrays, path)
    else:
        torch.save({f"fc.{name}": tensor for name, tensor in arrays.items()}, path)
    return path
