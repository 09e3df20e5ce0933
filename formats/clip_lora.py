"""CLIP-LoRA's files: MaxZanella/CLIP-LoRA, loralib/utils.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compatbench.errors import NotTransferable
from compatbench.method import Module
from compatbench.method.checkpoint_reader import Checkpoint
from compatbench.method.format import Config, Converted, Format, Import, torch_bytes

PROJECTIONS = ("q", "k", "v")


class Update(NamedTuple):
    """A low-rank update: of tower ``text`` or ``image``, block, projection; A ``[r, d]``, B."""

    tower: str
    block: int
    part: str
    a: Tensor
    b: Tensor


def stack_updates(updates: list[Update]) -> Module:
    """A module of ``clip_lora``; what is not updated has zeros, and ranks are filled with them."""
    trained, rank = {}, max(len(update.a) for update in updates)
    for tower in ("text", "image"):
        if not (of_tower := [update for update in updates if update.tower == tower]):
            continue
        blocks = 1 + max(update.block for update in of_tower)
        a = of_tower[0].a.new_zeros(blocks, len(PROJECTIONS), rank, of_tower[0].a.shape[1])
        b = torch.zeros_like(a.mT).contiguous()
        for update in of_tower:
            place = update.block, PROJECTIONS.index(update.part)
            a[place][: len(update.a)] = update.a
            b[place][:, : len(update.a)] = update.b
        trained |= {f"{tower}_a": a, f"{tower}_b": b}
    return Module(trained)


def split_updates(module: Module) -> Iterator[Update]:
    """The updates of a module, those of the text tower first."""
    for tower in ("text", "image"):
        if f"{tower}_a" not in module.trained:
            continue
        both = (module[f"{tower}_{side}"] for side in "ab")
        for block, (a, b) in enumerate(zip(*both, strict=True)):
            for part, *pair in zip(PROJECTIONS, a, b, strict=True):
                yield Update(tower, block, part, *(factor.clone() for factor in pair))


def config_of(module: Module, alpha: float) -> dict[str, Any]:
    towers = [tower for tower in ("text", "image") if f"{tower}_a" in module.trained]
    rank = module[f"{towers[0]}_a"].shape[-2]
    return {"encoder": "both" if len(towers) == 2 else towers[0], "rank": rank, "alpha": alpha}


class CLIPLoRA(Format):
    """MaxZanella/CLIP-LoRA, ``lora_weights.pt``: updates of q, k and v."""

    name = method = "clip_lora"

    def recognise(self, file: Checkpoint) -> bool:
        first = "weights.layer_0."
        return "metadata.r" in file.values and any(n.startswith(first) for n in file.tensors)

    def read(self, imported: Import) -> Converted:
        file = imported.file
        alpha, encoder = (file.values.get(f"metadata.{name}") for name in ("alpha", "encoder"))
        if alpha is None or encoder is None:
            raise imported.error("has no 'metadata' with alpha and encoder; is the format right?")
        places = [*self._places(imported, str(encoder))]
        layers = {name.split(".")[1] for name in file.tensors if name.startswith("weights.")}
        if layers != {f"layer_{i}" for i in range(len(places))}:
            raise imported.error(
                f"has {len(layers)} layers, and '{imported.backbone.name}' has {len(places)} at "
                f"its position '{file.values.get('metadata.position')}': give the source that it "
                "was trained on"
            )
        updates = []
        for i, (tower, block) in enumerate(places):
            width = "D" if tower == "text" else "d"
            for part in ("proj", *(f"{letter}_proj" for letter in PROJECTIONS)):
                key = f"weights.layer_{i}.{part}.w_lora_"
                if f"{key}A" not in file.tensors:
                    continue
                if part == "proj":
                    raise imported.error(
                        f"changes the output projection ('{key}A'), and '{self.method}' does not; "
                        "train it with the parameters q, k and v"
                    )
                pair = (
                    imported.take(f"{key}A", f"r {width}"),
                    imported.take(f"{key}B", f"{width} r"),
                )
                updates.append(Update(tower, block, part[0], *pair))
        if not updates:
            raise imported.error("changes neither q, k nor v")
        module = stack_updates(updates)
        return Converted(module, config_of(module, float(alpha)))

    def _places(self, imported: Import, encoder: str) -> Iterator[tuple[str, int]]:
        """Tower and block of each layer in the file, by the names of its positions."""
        position = str(imported.file.values.get("metadata.position", "all"))
        for tower, theirs in (("text", "text"), ("image", "vision")):
            if encoder not in (theirs, "both"):
                continue
            try:
                depth = getattr(imported.backbone, tower).depth
            except NotTransferable as why:
                raise imported.error(f"does not fit the source: {why.reason}") from None
            third, half = depth // 3, depth // 2
            ranges = {"all": (0, depth), "bottom": (0, third), "mid": (third, 2 * third)}
            ranges |= {"up": (2 * third, depth), "half-up": (half, depth)}
            ranges |= {"half-bottom": (0, half), "top": (depth - 1, depth)}
            ranges |= {f"top{n}": (depth - n, depth) for n in (1, 2, 3)}
            if position not in ranges:
                raise imported.error(f"names the position '{position}', which is not known")
            yield from ((tower, block) for block in range(*ranges[position]))

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        weights: dict[str, dict[str, Any]] = {}
        layers: dict[tuple[str, int], str] = {}
        for tower, block, part, a, b in split_updates(module):
            layer = layers.setdefault((tower, block), f"layer_{len(layers)}")
            pair = {"w_lora_A": a, "w_lora_B": b}
            weights.setdefault(layer, {})[f"{part}_proj"] = pair
        alpha = float(config["alpha"])
        metadata = {"r": config["rank"], "alpha": int(alpha) if alpha.is_integer() else alpha}
        metadata["encoder"] = {"image": "vision"}.get(config["encoder"], config["encoder"])
        metadata |= {"params": [*PROJECTIONS], "position": "all"}
        return {path: torch_bytes({"weights": weights, "metadata": metadata})}
