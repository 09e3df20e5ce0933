"""Checkpoints in the layout of Dassl's trainers, from random numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from open_clip_reference import text_tower
from torch import Tensor

from compatbench.backbone import Backbone, Labels

State = dict[str, Tensor]
WORDS = "a photo of a"


def save_dassl(folder: Path, state: State, model: str = "prompt_learner", epoch: int = 50) -> Path:
    """What ``save_checkpoint`` leaves of a registered model, its live scheduler included."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=2e-3, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    scheduler = {"successor": successor, "warmup_epoch": 1, "last_epoch": 50}
    path = folder / model / f"model.pth.tar-{epoch}"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": OrderedDict(state), "epoch": epoch, "val_result": None}
    torch.save(content | {"optimizer": optimizer.state_dict(), "scheduler": scheduler}, path)
    (path.parent / "checkpoint").write_text(f"{path.name}\n")
    return path


def drawer(seed: int = 0, dtype: torch.dtype = torch.float16) -> Callable[..., Tensor]:
    """Random tensors as trainers save them."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: (0.3 * torch.randn(shape, generator=generator)).to(dtype)


def buffers(
    backbone: Backbone, names: tuple[str, ...], vectors: int, words: str = "", prefix: str = ""
) -> State:
    """Embeddings of start-of-text, and of all that stands behind the context, in the whole text."""
    words = words or " ".join(["X"] * vectors)
    ids = backbone.tokenizer([f"{words} {name}." for name in names])
    rows = text_tower(backbone).token_embedding(ids).detach().half()
    return {f"{prefix}token_prefix": rows[:, :1], f"{prefix}token_suffix": rows[:, 1 + vectors :]}


def coop(backbone: Backbone, labels: Labels, own: bool = False) -> State:
    draw = drawer()
    context = draw(len(labels), 4, 32) if own else draw(4, 32)
    return {"ctx": context, **buffers(backbone, labels.names, 4)}


def atprompt(backbone: Backbone, labels: Labels) -> State:
    """Two attributes, and the vectors of a third that is not used."""
    draw, words = drawer(8), "X X color X X shape X X"
    vectors = {f"ctx_att{number}": draw(2, 32) for number in (1, 2, 3)}
    ids = backbone.tokenizer([f"{words} {name}." for name in labels.names])
    rows = text_tower(backbone).token_embedding(ids).detach().half()
    middle = {"token_middle1": rows[:, 3:4], "token_middle2": rows[:, 6:7]}
    return {"ctx": draw(2, 32), **vectors, **middle, **buffers(backbone, labels.names, 8, words)}


def kgcoop(backbone: Backbone, labels: Labels) -> State:
    draw = drawer(1)
    untrained = {"bias_vectors": draw(1, 32), "meta_net.linear1.weight": draw(16, 16)}
    return coop(backbone, labels) | untrained | {"meta_net.linear1.bias": draw(16)}


def network(hidden: int, outputs: int) -> State:
    draw = drawer(2)
    shapes = {"linear1.weight": (hidden, 16), "linear1.bias": (hidden,)}
    shapes |= {"linear2.weight": (outputs, hidden), "linear2.bias": (outputs,)}
    return {f"meta_net.{name}": draw(*shape) for name, shape in shapes.items()}


def cocoop(backbone: Backbone, labels: Labels) -> State:
    return coop(backbone, labels) | network(1, 32)


def tcp(backbone: Backbone, labels: Labels) -> State:
    names = tuple(f"{name}, a type of thing" for name in labels.names)
    return coop(backbone, labels) | network(4, 4 * 32) | buffers(backbone, names, 4)


def dept(backbone: Backbone, labels: Labels) -> State:
    draw, classes = drawer(3, torch.float32), len(labels)
    shapes = {f"film_lp_{kind}.{what}": (16,) for kind in ("img", "text") for what in BOTH}
    shapes |= {"linear_probe_proj.weight": (classes, 16), "linear_probe_proj.bias": (classes,)}
    state = {f"prompt_learner.{name}": tensor for name, tensor in coop(backbone, labels).items()}
    return state | {name: draw(*shape) for name, shape in shapes.items()} | towers(backbone)


BOTH = ("scale", "bias")


def towers(backbone: Backbone) -> State:
    """Some of the frozen weights that trainers of the whole model save."""
    model: Any = backbone.model
    image = {f"image_encoder.{n}": t.half() for n, t in model.visual.state_dict().items()}
    return image | {"logit_scale": model.logit_scale.detach().half()}


def first_prompt(backbone: Backbone, labels: Labels, vectors: int) -> State:
    """The first text prompt, whose words behind the context stay, with the frozen towers."""
    state = {"prompt_learner.ctx": drawer(4)(vectors, 32)}
    rows = buffers(backbone, labels.names, vectors, WORDS, "prompt_learner.")
    return state | rows | towers(backbone)


def maple(backbone: Backbone, labels: Labels) -> State:
    draw = drawer(5, torch.float32)
    state = first_prompt(backbone, labels, 2)
    for name in ("proj", "compound_prompt_projections.0"):
        state[f"prompt_learner.{name}.weight"] = draw(32, 32).half()
        state[f"prompt_learner.{name}.bias"] = draw(32).half()
    return state | {"prompt_learner.compound_prompts_text.0": draw(2, 32)}


def vpt(backbone: Backbone, labels: Labels) -> State:
    draw = drawer(6, torch.float32)
    name = "image_encoder.transformer.resblocks.1.VPT_shallow"
    return towers(backbone) | {"image_encoder.VPT": draw(2, 32), name: draw(2, 32)}


def ivlp(backbone: Backbone, labels: Labels) -> State:
    draw = drawer(7, torch.float32)
    deep = {f"text_encoder.transformer.resblocks.{i}.VPT_shallow": draw(2, 32) for i in (1, 2)}
    return first_prompt(backbone, labels, 2) | vpt(backbone, labels) | deep


def promptsrc(backbone: Backbone, labels: Labels) -> State:
    teacher = {"prompt_learner.ZS_image_encoder.ln_post.weight": torch.ones(32)}
    return ivlp(backbone, labels) | teacher
