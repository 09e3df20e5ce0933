"""Write files as the authors' code does, with random numbers."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip_reference import encode_texts, text_tower
from safetensors.torch import save_file
from torch import Tensor

from compatbench.backbone import Backbone, Labels

State = dict[str, Tensor]
WORDS = "a photo of a"


def save_dassl(folder: Path, state: State) -> Path:
    """Write a model as Dassl's ``save_checkpoint``, with its optimizer and live scheduler."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=2e-3, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    scheduler = {"successor": successor, "warmup_epoch": 1, "last_epoch": 50}
    path = folder / "prompt_learner" / "model.pth.tar-50"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": OrderedDict(state), "epoch": 50, "val_result": None}
    torch.save(content | {"optimizer": optimizer.state_dict(), "scheduler": scheduler}, path)
    (path.parent / "checkpoint").write_text(f"{path.name}\n")
    return path


def drawer(seed: int = 0, dtype: torch.dtype = torch.float16) -> Callable[..., Tensor]:
    """Return a function that draws random tensors of the dtype that trainers save."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: (0.3 * torch.randn(shape, generator=generator)).to(dtype)


def buffers(
    backbone: Backbone,
    names: tuple[str, ...],
    vectors: int,
    words: str = "",
    prefix: str = "",
    dtype: torch.dtype = torch.float16,
) -> State:
    """Return the embeddings of start-of-text, and of everything after the context."""
    words = words or " ".join(["X"] * vectors)
    ids = backbone.tokenizer([f"{words} {name}." for name in names])
    rows = text_tower(backbone).token_embedding(ids).detach().to(dtype)
    return {f"{prefix}token_prefix": rows[:, :1], f"{prefix}token_suffix": rows[:, 1 + vectors :]}


def save_coop(folder: Path, backbone: Backbone, names: Sequence[str]) -> Path:
    """Write a context of four random vectors, for prompts of these classes."""
    state = {"ctx": drawer()(4, backbone.token_width)}
    return save_dassl(folder, state | buffers(backbone, tuple(names), 4))


Rows = dict[str, tuple[int, ...]]  # keys of a state dict, and shapes


def network(hidden: int, outputs: int) -> dict[str, Rows]:
    return {
        "down": {"meta_net.linear1.weight": (hidden, 16)},
        "down_bias": {"meta_net.linear1.bias": (hidden,)},
        "up": {"meta_net.linear2.weight": (outputs, hidden)},
        "up_bias": {"meta_net.linear2.bias": (outputs,)},
    }


CONTEXT: dict[str, Rows] = {"context": {"ctx": (4, 32)}}
SHALLOW = "transformer.resblocks.{}.VPT_shallow"
IMAGES = {"image_encoder.VPT": (2, 32), f"image_encoder.{SHALLOW.format(1)}": (2, 32)}
FIRST = "prompt_learner.ctx"
COUPLED = "prompt_learner.compound_prompt"
TEXTS = {FIRST: (2, 32)}
TEXTS |= {f"text_encoder.{SHALLOW.format(block)}": (2, 32) for block in (1, 2)}
# The tensors that Dassl's trainers learn: our name, and its key, or the keys that are stacked.
LEARNED: dict[str, dict[str, Rows]] = {
    "coop": CONTEXT,
    "prograd": CONTEXT,
    "kgcoop": CONTEXT,
    "atprompt": {
        "context": {"ctx": (2, 32)},
        "attribute_context": {"ctx_att1": (2, 32), "ctx_att2": (2, 32)},
    },
    "cocoop": CONTEXT | network(1, 32),
    "tcp": CONTEXT | network(4, 4 * 32),
    "dept": {
        "context": {FIRST: (4, 32)},
        "image_gain": {"film_lp_img.scale": (16,)},
        "image_shift": {"film_lp_img.bias": (16,)},
        "text_gain": {"film_lp_text.scale": (16,)},
        "text_shift": {"film_lp_text.bias": (16,)},
        "head": {"linear_probe_proj.weight": (5, 16)},
        "head_bias": {"linear_probe_proj.bias": (5,)},
    },
    "maple": {
        "text_prompts": {FIRST: (2, 32), f"{COUPLED}s_text.0": (2, 32)},
        "coupling_weight": {
            "prompt_learner.proj.weight": (32, 32), f"{COUPLED}_projections.0.weight": (32, 32),
        },
        "coupling_bias": {
            "prompt_learner.proj.bias": (32,), f"{COUPLED}_projections.0.bias": (32,),
        },
    },
    "ivlp": {"text_prompts": TEXTS, "image_prompts": IMAGES},
    "promptsrc": {"text_prompts": TEXTS, "image_prompts": IMAGES},
    "vpt": {"image_prompts": IMAGES},
    "clip_adapter": {"down": {"fc.0.weight": (4, 16)}, "up": {"fc.2.weight": (16, 4)}},
    "taskres": {"residual": {"text_feature_residuals": (5, 16)}},
}  # fmt: skip
SINGLE = ("dept", "vpt", "clip_adapter", "taskres")  # the others are saved in halves


def dassl(
    kind: str, backbone: Backbone, labels: Labels, templates: slice = slice(1), own: bool = False
) -> State:
    """Return all tensors that a trainer saves, learned or not.

    Args:
        templates: those of TaskRes's text features, whose mean is saved.
        own: each class has a separate context.
    """
    draw = drawer(dtype=torch.float32 if kind in SINGLE else torch.float16)
    names = labels.names
    state = {}
    for rows in LEARNED[kind].values():
        for key, shape in rows.items():
            state[key] = draw(*shape)
    if own:
        state["ctx"] = draw(len(labels), 4, 32)
    if kind == "atprompt":  # the vectors of a third attribute, which is not used
        words = "X X color X X shape X X"
        ids = backbone.tokenizer([f"{words} {name}." for name in names])
        rows = text_tower(backbone).token_embedding(ids).detach().half()
        state |= {"token_middle1": rows[:, 3:4], "token_middle2": rows[:, 6:7]}
        state |= {"ctx_att3": draw(2, 32), **buffers(backbone, names, 8, words)}
    elif "ctx" in state:
        ending = ", a type of thing" if kind == "tcp" else ""
        state |= buffers(backbone, tuple(f"{name}{ending}" for name in names), 4)
    elif kind == "dept":
        state |= buffers(backbone, names, 4, "", "prompt_learner.")
    elif FIRST in state:  # the words of the first prompt stay after the context
        state |= buffers(backbone, names, 2, WORDS, "prompt_learner.")
    if kind == "kgcoop":  # never trained
        state |= {"bias_vectors": draw(1, 32), "meta_net.linear1.weight": draw(16, 16)}
    if kind == "promptsrc":
        state["prompt_learner.ZS_image_encoder.ln_post.weight"] = torch.ones(32)
    if kind in ("dept", "maple", "ivlp", "promptsrc", "vpt"):  # trainers that save the whole model
        model: Any = backbone.model
        for name, tensor in model.visual.state_dict().items():
            state[f"image_encoder.{name}"] = tensor.half()
        state["logit_scale"] = model.logit_scale.detach().half()
    if kind == "taskres":
        with torch.no_grad():
            texts = [encode_texts(backbone, labels.fill(t)) for t in labels.templates[templates]]
        state["base_text_features"] = torch.stack(texts).mean(0).float()
    return state


WEIGHT = drawer(7, torch.float32)(5, 16)
BIAS = drawer(8, torch.float32)(5)
# Places of low-rank updates: tower, block, projection and rank.
Place = tuple[str, int, str, int]
BLOCKS = [("text", 0), ("text", 1), ("text", 2), ("image", 0), ("image", 1)]
EVERYWHERE = [(tower, block, part, 4) for tower, block in BLOCKS for part in "qkv"]
HF = {"text": "text_model", "image": "vision_model"}


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def save_cache(folder: Path, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Write two shots as Tip-Adapter's script: keys transposed, all in half precision."""
    keys = F.normalize(drawer(1, torch.float32)(2 * classes, 16), dim=-1).half()
    values = F.one_hot(torch.arange(classes).repeat_interleave(2)).half()
    trained = torch.nn.Parameter(keys + drawer(2)(2 * classes, 16))
    save(folder / "keys_2shots.pt", keys.T)
    save(folder / "values_2shots.pt", values)
    save(folder / "best_F_2shots.pt", trained)
    return keys, values, trained.detach()


def low_rank(encoder: str, parts: str = "qkv", layers: int = 0, **said: Any) -> dict[str, Any]:
    """Return CLIP-LoRA's file for text towers of 3 blocks and image towers of 2, of width 32."""
    draw = drawer(5, torch.float32)
    layers = layers or {"both": 5, "text": 3, "vision": 2}[encoder]
    weights = {}
    for number in range(layers):
        layer = {}
        for part in parts:
            name = "proj" if part == "o" else f"{part}_proj"
            layer[name] = {"w_lora_A": draw(2, 32), "w_lora_B": draw(32, 2)}
        weights[f"layer_{number}"] = layer
    metadata = {"r": 2, "alpha": 1, "encoder": encoder, "params": [*parts], "position": "all"}
    return {"weights": weights, "metadata": metadata | said}


def save_peft(
    folder: Path, places: list[Place], width: dict[str, int] | int = 32, **settings: Any
) -> dict[Place, list[Tensor]]:
    """Write an adapter as PEFT's two files, and return A and B of each place.

    Args:
        width: of the tokens, or that of each tower.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = drawer(6, torch.float32)
    tensors = {}
    pairs = {}
    for tower, block, part, rank in places:
        name = f"base_model.model.{HF[tower]}.encoder.layers.{block}.self_attn.{part}_proj"
        size = width if isinstance(width, int) else width[tower]
        pairs[tower, block, part, rank] = [draw(rank, size), draw(size, rank)]
        for letter, tensor in zip("AB", pairs[tower, block, part, rank], strict=True):
            tensors[f"{name}.lora_{letter}.weight"] = tensor
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": False}
    config |= {"modules_to_save": None, "base_model_name_or_path": "openai/clip-vit-base-patch16"}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return pairs


def save_head(path: Path, **arrays: Any) -> Path:
    """Write a linear head; an npz has scikit-learn's names."""
    if path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(value) for name, value in arrays.items()})
    elif path.suffix == ".safetensors":
        save_file(arrays, path)
    else:
        torch.save({f"fc.{name}": tensor for name, tensor in arrays.items()}, path)
    return path
