"""Files as authors' code writes them, from random numbers."""

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
    """What ``save_checkpoint`` leaves of a registered model, its live scheduler included."""
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
    """Random tensors as trainers save them."""
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
    """Embeddings of start-of-text, and of all that stands behind the context, in the whole text."""
    words = words or " ".join(["X"] * vectors)
    ids = backbone.tokenizer([f"{words} {name}." for name in names])
    rows = text_tower(backbone).token_embedding(ids).detach().to(dtype)
    return {f"{prefix}token_prefix": rows[:, :1], f"{prefix}token_suffix": rows[:, 1 + vectors :]}


def save_coop(folder: Path, backbone: Backbone, names: Sequence[str]) -> Path:
    """A context of four random vectors, for prompts of these classes."""
    state = {"ctx": drawer()(4, backbone.token_width)}
    return save_dassl(folder, state | buffers(backbone, tuple(names), 4))


Rows = dict[str, tuple[int, ...]]  # keys of a state dict, and shapes


def network(hidden: int, outputs: int) -> dict[str, Rows]:
    shapes = dict(down=("1.weight", (hidden, 16)), down_bias=("1.bias", (hidden,)))
    shapes |= dict(up=("2.weight", (outputs, hidden)), up_bias=("2.bias", (outputs,)))
    return {name: {f"meta_net.linear{key}": shape} for name, (key, shape) in shapes.items()}


CONTEXT: dict[str, Rows] = {"context": {"ctx": (4, 32)}}
SHALLOW = "transformer.resblocks.{}.VPT_shallow"
IMAGES = {"image_encoder.VPT": (2, 32), f"image_encoder.{SHALLOW.format(1)}": (2, 32)}
FIRST, COUPLED = "prompt_learner.ctx", "prompt_learner.compound_prompt"
TEXTS = dict.fromkeys([FIRST, *(f"text_encoder.{SHALLOW.format(i)}" for i in (1, 2))], (2, 32))
# What Dassl's trainers have learned: by our name of a tensor its key, or those that are stacked.
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
    """What a trainer saves: what it has learned, and what stands beside that in the file.

    Args:
        templates: of TaskRes's text features, whose mean is saved.
        own: each class has a context of its own.
    """
    draw, names = drawer(dtype=torch.float32 if kind in SINGLE else torch.float16), labels.names
    state = {key: draw(*shape) for rows in LEARNED[kind].values() for key, shape in rows.items()}
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
    elif FIRST in state:  # words of a first prompt that are left behind it stay
        words, vectors = ("", 4) if kind == "dept" else (WORDS, 2)
        state |= buffers(backbone, names, vectors, words, "prompt_learner.")
    if kind == "kgcoop":  # never trained
        state |= {"bias_vectors": draw(1, 32), "meta_net.linear1.weight": draw(16, 16)}
    if kind == "promptsrc":
        state["prompt_learner.ZS_image_encoder.ln_post.weight"] = torch.ones(32)
    if kind in ("dept", "maple", "ivlp", "promptsrc", "vpt"):  # trainers that save the whole model
        model: Any = backbone.model
        state |= {f"image_encoder.{n}": t.half() for n, t in model.visual.state_dict().items()}
        state["logit_scale"] = model.logit_scale.detach().half()
    if kind == "taskres":
        with torch.no_grad():
            texts = [encode_texts(backbone, labels.fill(t)) for t in labels.templates[templates]]
        state["base_text_features"] = torch.stack(texts).mean(0).float()
    return state


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
