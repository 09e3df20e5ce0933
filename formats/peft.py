"""LoRA adapters of Hugging Face's PEFT on CLIPModel of transformers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.messages import first_line
from compatbench.method import Module
from compatbench.method.checkpoint_reader import Checkpoint
from compatbench.method.format import Config, Converted, Format, Import

from .clip_lora import PROJECTIONS, Update, config_of, split_updates, stack_updates

START, MIDDLE = "base_model.model.", ".lora_A.weight"
PLACE = r"(?:.*\.)?(text|vision)_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj"
LAYER = (
    r"(?:.*\.)?(text|vision)_model\.encoder\.layers\.(\d+)\."
    r"(?:self_attn\.(q|k|v|out)_proj|mlp\.(fc[12]))"
)
INSIDE = {"out": "attn.out_proj.weight", "fc1": "mlp.c_fc.weight", "fc2": "mlp.c_proj.weight"}
TOWERS = {"vision": "image", "text": "text"}
MOST_BYTES = 1 << 20
# Settings with another value mean another formula than W + s B A.
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None,),
    "modules_to_save": (None, []),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "init_lora_weights": (True, False, None, "gaussian"),
}


class PEFT(Format):
    """huggingface/peft on CLIPModel: ``adapter_model.safetensors`` with ``adapter_config.json``.

    LoRA of q, k and v, of any rank, as modules of ``clip_lora``.
    """

    name, method = "peft", "clip_lora"

    def recognise(self, file: Checkpoint) -> bool:
        paths = _changed(file)
        return bool(paths) and all(re.fullmatch(PLACE, path) for path in paths)

    def read(self, imported: Import) -> Converted:
        updates, scales = [], []
        for path, scale in _read_scales(imported):
            if (place := re.fullmatch(PLACE, path)) is None:
                raise imported.error(
                    f"changes '{path}', and '{self.method}' changes q, k and v of the towers of "
                    "CLIPModel alone; import it as 'peft_layers'"
                )
            tower, block, part = TOWERS[place[1]], int(place[2]), place[3]
            width, rank = "D" if tower == "text" else "d", f"r{len(updates)}"
            a, b = _take_pair(imported, path, f"{rank} {width}", f"{width} {rank}")
            if block >= (depth := getattr(imported.backbone, tower).depth):
                raise imported.error(f"changes block {block} of {depth}; give its own source")
            updates.append(Update(tower, block, part, a, b))
            scales.append(scale(len(a)))
        module = stack_updates(
            [
                update._replace(b=update.b * (scale / scales[0]))
                for update, scale in zip(updates, scales, strict=True)
            ]
        )
        rank = max(len(update.a) for update in updates)
        return Converted(module, config_of(module, scales[0] * math.sqrt(rank)))

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        from safetensors.torch import save

        tensors = {}
        for update in split_updates(module):
            tower = "vision" if update.tower == "image" else "text"
            layer = f"{tower}_model.encoder.layers.{update.block}.self_attn.{update.part}_proj"
            tensors[f"{START}{layer}{MIDDLE}"] = update.a
            tensors[f"{START}{layer}.lora_B.weight"] = update.b
        towers = {"both": "(text|vision)", "image": "vision"}.get(config["encoder"], "text")
        settings = {
            "peft_type": "LORA",
            "r": config["rank"],
            "lora_alpha": config["alpha"],
            "use_rslora": True,  # α/√r, as CLIP-LoRA scales
            "target_modules": rf".*{towers}_model\.encoder\.layers\.\d+\.self_attn\.[qkv]_proj",
            "bias": "none",
            "lora_dropout": config.get("dropout", 0.0),
            "inference_mode": True,
        }
        return {
            path / "adapter_model.safetensors": save(tensors, {"format": "pt"}),
            path / "adapter_config.json": json.dumps(settings, indent=2).encode(),
        }


class PEFTOfLayers(PEFT):
    """The same of other layers as well: ``out_proj``, ``fc1``, ``fc2``, projections (all-linear).

    A module of FLYP, which holds what is added to every weight: s B A, and elsewhere 0. Class
    weights are the features of the class names in the task's first template.
    """

    name, method = "peft_layers", "flyp"

    def recognise(self, file: Checkpoint) -> bool:
        return bool(_changed(file)) and not super().recognise(file)

    def read(self, imported: Import) -> Converted:
        weights = {
            "text": imported.backbone.text.weights,
            "image": imported.backbone.image.weights,
        }
        trained = {
            f"{tower}.{name}": torch.zeros_like(weight)
            for tower in weights
            for name, weight in weights[tower].items()
        }
        for number, (path, scale) in enumerate(_read_scales(imported)):
            a, b = _take_pair(imported, path, f"r{number} i{number}", f"o{number} r{number}")
            name, third = _place_in_tower(path, imported)
            if (difference := trained.get(name)) is None:
                raise imported.error(f"changes '{path}', and the source has no '{name}'")
            if name.endswith(("proj", "projection")):  # the last of a tower is [d, e]
                difference = difference.T
            if third is not None:
                difference = difference.chunk(3)[third]
            if difference.shape != (len(b), a.shape[1]):
                raise imported.error(f"changes '{path}' of another size; give its own source")
            difference += (scale(len(a)) * b.double() @ a.double()).to(difference)
        module = Module(trained | {"log_scale": torch.zeros(())})
        return Converted(module, {"templates": "first"})

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        raise CompatbenchError("weights that were added up are not written as LoRA again")


def _place_in_tower(path: str, imported: Import) -> tuple[str, int | None]:
    """The weight of a tower that a layer of CLIPModel is, and which third of its rows."""
    if match := re.fullmatch(r"(text|visual)_projection", path):
        return {"text": "text.text_projection", "visual": "image.proj"}[match[1]], None
    if (match := re.fullmatch(LAYER, path)) is None:
        raise imported.error(f"changes '{path}', which is no linear layer of CLIPModel's towers")
    tower, block, part = TOWERS[match[1]], match[2], match[3] or match[4]
    start = f"{tower}.transformer.resblocks.{block}."
    if part in PROJECTIONS:
        return f"{start}attn.in_proj_weight", PROJECTIONS.index(part)
    return start + INSIDE[part], None


def _changed(file: Checkpoint) -> list[str]:
    """The layers that an adapter changes, by their paths in the model."""
    return [
        name.removeprefix(START).removesuffix(MIDDLE)
        for name in sorted(file.tensors)
        if name.startswith(START) and name.endswith(MIDDLE)
    ]


def _read_scales(imported: Import) -> Iterator[tuple[str, Callable[[int], float]]]:
    """The layers of an adapter whose settings mean W + s B A; and s of each, by its rank."""
    config = _read_config(imported.file.path.with_name("adapter_config.json"))
    for name, values in PLAIN.items():
        if (value := config.get(name, values[0])) not in values:
            raise imported.error(f"has '{name}': {value!r} in its settings, which is not imported")
    if base := config.get("base_model_name_or_path"):
        imported.notes.append(f"trained on {base}")
    for name in sorted(imported.file.tensors):
        if not name.endswith(MIDDLE) and ".lora_B." not in name:
            raise imported.error(f"holds '{name}', which is no LoRA of a linear layer")
    stable = bool(config.get("use_rslora"))
    for path in _changed(imported.file):
        alpha = _alpha_of(path, config)
        yield path, lambda rank, alpha=alpha: alpha / (math.sqrt(rank) if stable else rank)


def _take_pair(imported: Import, path: str, *shapes: str) -> tuple[Tensor, Tensor]:
    name = f"{START}{path}{MIDDLE}"
    return imported.take(name, shapes[0]), imported.take(
        name.replace(".lora_A.", ".lora_B."), shapes[1]
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            settings = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        what = f"cannot read {path}: {first_line(error)}"
        raise CompatbenchError(f"{what}; PEFT writes it beside the adapter") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("lora_alpha"), int | float):
        raise CompatbenchError(f"{path} does not hold 'lora_alpha'; take the one of the adapter")
    return settings


def _alpha_of(path: str, config: Mapping[str, Any]) -> float:
    """PEFT's α of a layer: that of the first pattern that its path ends in."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if path == pattern or path.endswith(f".{pattern}"):
            return float(alpha)
    return float(config["lora_alpha"])
