"""Makes the two models and reaches into their towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from compatbench.backbone.load.mini_towers import register_mini_towers
from compatbench.backbone.text.text_anatomy import text_tower

from .sets import TASKS_FOLDER, Role

SOURCE, NEXT, OTHER = "mini-clip", "mini-clip-next", "mini-clip-other"
TARGET, ANEW = "mini-eva-clip", "mini-eva-clip-anew"
#: A kind of target that inherits nothing; none of it ships.
APART = "mini-eva-clip-apart"
#: Every model that ships, and the config that says what it is built of.
CONFIGS = {SOURCE: SOURCE, NEXT: SOURCE, OTHER: SOURCE, TARGET: TARGET, ANEW: TARGET}
#: The roles of the sets that each model learns from.
PRETRAINING: dict[str, tuple[Role, ...]] = {
    SOURCE: ("source",),
    NEXT: ("source", "next"),
    OTHER: ("target",),
    TARGET: ("source", "target"),
    ANEW: ("source", "target"),
    APART: ("source", "target"),
}

Model = Any


def create(name: str) -> Model:
    """Makes a model with random weights; of a further target, those of the target that ships."""
    register_mini_towers(TASKS_FOLDER)
    return open_clip.create_model(CONFIGS.get(name, TARGET), precision="fp32")


def trained_path(work: Path, name: str) -> Path:
    """Where a training leaves a model's weights."""
    return work / name / f"{name}.safetensors"


def facts_path(work: Path, name: str) -> Path:
    """Where a training leaves its steps, losses and times."""
    return work / name / "facts.json"


def load(name: str, path: Path) -> Model:
    """Makes a model with the weights of a safetensors file, ready for evaluation."""
    model = create(name)
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return model.eval().requires_grad_(False)


def save(model: Model, path: Path) -> None:
    """Writes a model's weights as float16."""
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, path)


def text_parameters(model: Model) -> dict[int, torch.nn.Parameter]:
    """The text encoder's parameters by id."""
    tower = text_tower(model)
    modules = (tower.transformer, tower.token_embedding, tower.ln_final)
    parameters = [p for module in modules for p in module.parameters()]
    parameters += [tower.positional_embedding, tower.text_projection]
    return {id(p): p for p in parameters}


def encode_text(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """Encodes tokens, int64 [B, L], to unit features, float [B, dim].

    The text encoder is causal and EOT has the highest id, so columns past the
    longest EOT may be cut off.
    """
    tower, length = text_tower(model), tokens.shape[1]
    hidden = tower.token_embedding(tokens) + tower.positional_embedding[:length]
    hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length])
    ends = torch.arange(len(hidden)), tokens.argmax(-1)
    return F.normalize((tower.ln_final(hidden)[ends] @ tower.text_projection).float(), dim=-1)


def encode_images(model: Model, images: torch.Tensor) -> torch.Tensor:
    """Encodes normalised images, float [B, 3, 48, 48], to unit features, float [B, dim]."""
    return F.normalize(model.visual(images).float(), dim=-1)
