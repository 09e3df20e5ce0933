"""CLIP-LoRA's files: MaxZanella/CLIP-LoRA, loralib/utils.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.errors import NotTransferable
from compatbench.method import Module
from compatbench.method.checkpoint_reader import Checkpoint
from compatbench.method.format import Config, Converted, Format, Import, torch_bytes

PROJECTIONS = ("q", "k", "v")


class Update(NamedTuple):
    """A low-rank update of one projection."""

    tower: str  # "text" or "image"
    block: int
    part: str  # "q", "k" or "v"
    a: Tensor  # [r, d]
    b: Tensor  # [d, r]


def stack_updates(updates: list[Update], backbone: Backbone) -> Module:
    """Return a module of ``clip_lora`` for all blocks of the towers that are updated.

    Projections without an update have zeros, and updates of a lower rank are filled with zeros.
    """
    trained = {}
    rank = max(len(update.a) for update in updates)
    for tower in ("text", "image"):
        tower_updates = [update for update in updates if update.tower == tower]
        if not tower_updates:
            continue
        depth = getattr(backbone, tower).depth
        first = tower_updates[0].a
        a = first.new_zeros(depth, len(PROJECTIONS), rank, first.shape[1])
        b = torch.zeros_like(a.mT).contiguous()
        for update in tower_updates:
            part = PROJECTIONS.index(update.part)
            own_rank = len(update.a)
            a[update.block, part, :own_rank] = update.a
            b[update.block, part, :, :own_rank] = update.b
        trained[f"{tower}_a"] = a
        trained[f"{tower}_b"] = b
    return Module(trained)


def split_updates(module: Module) -> Iterator[Update]:
    """Yield the updates of a module, those of the text tower first."""
    for tower in ("text", "image"):
        if f"{tower}_a" not in module.trained:
            continue
        factors = zip(module[f"{tower}_a"], module[f"{tower}_b"], strict=True)
        for block, (block_a, block_b) in enumerate(factors):
            for part, a, b in zip(PROJECTIONS, block_a, block_b, strict=True):
                yield Update(tower, block, part, a.clone(), b.clone())


def config_of(module: Module, alpha: float) -> dict[str, Any]:
    """Return the settings of ``clip_lora`` with which a module was fitted."""
    towers = [tower for tower in ("text", "image") if f"{tower}_a" in module.trained]
    rank = module[f"{towers[0]}_a"].shape[-2]
    encoder = "both" if len(towers) == 2 else towers[0]
    return {"encoder": encoder, "rank": rank, "alpha": alpha}


class CLIPLoRA(Format):
    """MaxZanella/CLIP-LoRA, ``lora_weights.pt``: updates of q, k and v."""

    name = method = "clip_lora"

    def recognise(self, file: Checkpoint) -> bool:
        has_layers = any(name.startswith("weights.layer_0.") for name in file.tensors)
        return has_layers and "metadata.r" in file.values

    def read(self, imported: Import) -> Converted:
        file = imported.file
        alpha = file.values.get("metadata.alpha")
        encoder = file.values.get("metadata.encoder")
        if alpha is None or encoder is None:
            raise imported.error("has no 'metadata' with alpha and encoder; is the format right?")
        places = self._find_places(imported, str(encoder))
        layers = {name.split(".")[1] for name in file.tensors if name.startswith("weights.")}
        if layers != {f"layer_{number}" for number in range(len(places))}:
            raise imported.error(
                f"has {len(layers)} layers, and '{imported.backbone.name}' has {len(places)} at "
                f"its position '{file.values.get('metadata.position')}': give the source that it "
                "was trained on"
            )
        updates = []
        for number, (tower, block) in enumerate(places):
            layer = f"weights.layer_{number}"
            if f"{layer}.proj.w_lora_A" in file.tensors:
                raise imported.error(
                    f"changes the output projection ('{layer}.proj.w_lora_A'), and "
                    f"'{self.method}' does not; train it with the parameters q, k and v"
                )
            width = "D" if tower == "text" else "d"
            for part in PROJECTIONS:
                key = f"{layer}.{part}_proj.w_lora_"
                if f"{key}A" in file.tensors:
                    a = imported.take(f"{key}A", f"r {width}")
                    b = imported.take(f"{key}B", f"{width} r")
                    updates.append(Update(tower, block, part, a, b))
        if not updates:
            raise imported.error("changes neither q, k nor v")
        module = stack_updates(updates, imported.backbone)
        return Converted(module, config_of(module, float(alpha)))

    def _find_places(self, imported: Import, encoder: str) -> list[tuple[str, int]]:
        """Return tower and block of each layer in the file, by the name of its position."""
        position = str(imported.file.values.get("metadata.position", "all"))
        places = []
        for tower, theirs in (("text", "text"), ("image", "vision")):
            if encoder not in (theirs, "both"):
                continue
            try:
                depth = getattr(imported.backbone, tower).depth
            except NotTransferable as why:
                raise imported.error(f"does not fit the source: {why.reason}") from None
            blocks = blocks_by_position(depth)
            if position not in blocks:
                raise imported.error(f"names the position '{position}', which is not known")
            places += [(tower, block) for block in blocks[position]]
        return places

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        weights: dict[str, dict[str, Any]] = {}
        # Layers are numbered over both towers.
        layers: dict[tuple[str, int], str] = {}
        for update in split_updates(module):
            layer = layers.setdefault((update.tower, update.block), f"layer_{len(layers)}")
            pair = {"w_lora_A": update.a, "w_lora_B": update.b}
            weights.setdefault(layer, {})[f"{update.part}_proj"] = pair
        alpha = float(config["alpha"])
        encoder = config["encoder"]
        metadata = {
            "r": config["rank"],
            "alpha": int(alpha) if alpha.is_integer() else alpha,
            "encoder": "vision" if encoder == "image" else encoder,
            "params": [*PROJECTIONS],
            "position": "all",
        }
        return {path: torch_bytes({"weights": weights, "metadata": metadata})}


def blocks_by_position(depth: int) -> dict[str, range]:
    """Return the blocks of a tower under each of CLIP-LoRA's names for a position."""
    third = depth // 3
    half = depth // 2
    return {
        "all": range(depth),
        "bottom": range(third),
        "mid": range(third, 2 * third),
        "up": range(2 * third, depth),
        "half-up": range(half, depth),
        "half-bottom": range(half),
        "top": range(depth - 1, depth),
        "top1": range(depth - 1, depth),
        "top2": range(depth - 2, depth),
        "top3": range(depth - 3, depth),
    }
