"""LoRA adapters of Hugging Face's PEFT on CLIPModel of transformers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compatbench.errors import CompatbenchError
from compatbench.messages import first_line
from compatbench.method import Module
from compatbench.method.checkpoint_reader import Checkpoint
from compatbench.method.format import Config, Converted, Format, Import

from .clip_lora import Update, config_of, split_updates, stack_updates

START, MIDDLE = "base_model.model.", ".lora_A.weight"
PLACE = r"(?:.*\.)?(text|vision)_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj"
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
        return any(name.startswith(START) and name.endswith(MIDDLE) for name in file.tensors)

    def read(self, given: Import) -> Converted:
        config = _read_config(given.file.path.with_name("adapter_config.json"))
        for name, values in PLAIN.items():
            if (value := config.get(name, values[0])) not in values:
                raise given.error(f"has '{name}': {value!r} in its settings, which is not imported")
        stable, base = bool(config.get("use_rslora")), config.get("base_model_name_or_path")
        if base:
            given.notes.append(f"trained on {base}")
        updates, scales = [], []
        for name in sorted(given.file.tensors):
            if not name.endswith(MIDDLE):
                if ".lora_B." not in name:
                    raise given.error(f"holds '{name}', which is no LoRA of a linear layer")
                continue
            path = name.removeprefix(START).removesuffix(MIDDLE)
            if (place := re.fullmatch(PLACE, path)) is None:
                raise given.error(
                    f"changes '{path}', and '{self.method}' changes q, k and v of the towers of "
                    "CLIPModel alone"
                )
            tower, block, part = TOWERS[place[1]], int(place[2]), place[3]
            width, rank = "D" if tower == "text" else "d", f"r{len(updates)}"
            a = given.take(name, f"{rank} {width}")
            b = given.take(name.replace(".lora_A.", ".lora_B."), f"{width} {rank}")
            if block >= (depth := getattr(given.backbone, tower).depth):
                raise given.error(f"changes block {block} of {depth}; give its own source")
            updates.append(Update(tower, block, part, a, b))
            alpha = _alpha_of(path, config)
            scales.append(alpha / (math.sqrt(len(a)) if stable else len(a)))
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
