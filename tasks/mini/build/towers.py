"""Make models, and encode with their towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F

from compatbench.backbone.load.mini_towers import register_mini_towers
from compatbench.backbone.text.text_anatomy import text_tower
from compatbench.files.atomic import write_atomic

from .sets import TASKS_FOLDER, Role

SOURCE, NEXT, OTHER = "mini-clip", "mini-clip-next", "mini-clip-other"
TARGET, ANEW = "mini-eva-clip", "mini-eva-clip-anew"
#: A source of another seed and other widths. Neither it nor its targets ship.
SECOND_SOURCE = "mini-clip-2"
#: The open_clip config of every model that ships.
CONFIGS = {SOURCE: SOURCE, NEXT: SOURCE, OTHER: SOURCE, TARGET: TARGET, ANEW: TARGET}
#: The open_clip config of the targets of each source, which have its widths.
TARGET_CONFIGS = {SOURCE: TARGET, SECOND_SOURCE: "mini-clip-2-eva"}
#: The roles of the sets that each model learns from.
PRETRAINING: dict[str, tuple[Role, ...]] = {
    SOURCE: ("source",),
    NEXT: ("source", "next"),
    OTHER: ("target",),
    TARGET: ("source", "target"),
    ANEW: ("source", "target"),
    SECOND_SOURCE: ("source",),
}

Model = Any


def create(name: str) -> Model:
    """Make a model with random weights, by the name of a model that ships or of a config."""
    register_mini_towers(TASKS_FOLDER)
    return open_clip.create_model(CONFIGS.get(name, name), precision="fp32")


def trained_path(work: Path, name: str) -> Path:
    """Return where a training leaves the weights of a model that ships."""
    return work / name / f"{name}.safetensors"


def facts_path(work: Path, name: str) -> Path:
    """Return where the training of a model that ships leaves its steps, losses and times."""
    return work / name / "facts.json"


def load(name: str, path: Path) -> Model:
    """Make a model with the weights of a safetensors file, ready for evaluation.

    ``name`` is as for ``create``.
    """
    model = create(name)
    tensors = safetensors.torch.load_file(path)
    model.load_state_dict({key: value.float() for key, value in tensors.items()})
    return model.eval().requires_grad_(False)


def save(model: Model, path: Path) -> None:
    """Write a model's weights as float16; a killed process leaves no incomplete file."""
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(path, safetensors.torch.save(tensors))


def text_parameters(model: Model) -> dict[int, torch.nn.Parameter]:
    """Return the text encoder's parameters by id."""
    tower = text_tower(model)
    modules = (tower.transformer, tower.token_embedding, tower.ln_final)
    parameters = [p for module in modules for p in module.parameters()]
    parameters += [tower.positional_embedding, tower.text_projection]
    return {id(p): p for p in parameters}


def encode_text(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """Encode tokens, int64 [B, L], to unit features, float [B, dim].

    The text encoder is causal and EOT has the highest id, so columns past the
    longest EOT may be cut off.
    """
    tower, length = text_tower(model), tokens.shape[1]
    hidden = tower.token_embedding(tokens) + tower.positional_embedding[:length]
    hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length])
    ends = torch.arange(len(hidden)), tokens.argmax(-1)
    return F.normalize((tower.ln_final(hidden)[ends] @ tower.text_projection).float(), dim=-1)


def encode_images(model: Model, images: torch.Tensor) -> torch.Tensor:
    """Encode normalised images, float [B, 3, 48, 48], to unit features, float [B, dim]."""
    return F.normalize(model.visual(images).float(), dim=-1)
