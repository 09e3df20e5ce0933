"""LoRA adapters of Hugging Face's PEFT on CLIPModel of transformers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
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

# An adapter's tensor of a layer is named START + path of the layer + END.
START = "base_model.model."
END = ".lora_A.weight"
# Paths of q, k and v, and of all linear layers of the towers, in CLIPModel.
PROJECTION = r"(?:.*\.)?(text|vision)_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj"
LAYER = (
    r"(?:.*\.)?(text|vision)_model\.encoder\.layers\.(\d+)\."
    r"(?:self_attn\.(q|k|v|out)_proj|mlp\.(fc[12]))"
)
# open_clip's names of a block's other layers.
INSIDE = {"out": "attn.out_proj.weight", "fc1": "mlp.c_fc.weight", "fc2": "mlp.c_proj.weight"}
TOWERS = {"vision": "image", "text": "text"}
MAX_BYTES = 1 << 20
# The values of settings under which an adapter means W + s B A.
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

    name = "peft"
    method = "clip_lora"

    def recognise(self, file: Checkpoint) -> bool:
        paths = _changed_layers(file)
        return bool(paths) and all(re.fullmatch(PROJECTION, path) for path in paths)

    def read(self, imported: Import) -> Converted:
        updates: list[Update] = []
        scales = []
        for path, scale_of_rank in _read_scales(imported):
            place = re.fullmatch(PROJECTION, path)
            if place is None:
                raise imported.error(
                    f"changes '{path}', and '{self.method}' changes q, k and v of the towers of "
                    "CLIPModel alone; import it as 'peft_layers'"
                )
            tower = TOWERS[place[1]]
            block = int(place[2])
            part = place[3]
            width = "D" if tower == "text" else "d"
            # A letter for each layer, because ranks may differ.
            rank = f"r{len(updates)}"
            a, b = _take_pair(imported, path, f"{rank} {width}", f"{width} {rank}")
            depth = getattr(imported.backbone, tower).depth
            if block >= depth:
                raise imported.error(f"changes block {block} of {depth}; give its own source")
            updates.append(Update(tower, block, part, a, b))
            scales.append(scale_of_rank(len(a)))
        # A module has one scale: that of the first update. Other updates are rescaled to it.
        rescaled = []
        for update, scale in zip(updates, scales, strict=True):
            rescaled.append(update._replace(b=update.b * (scale / scales[0])))
        module = stack_updates(rescaled)
        largest_rank = max(len(update.a) for update in updates)
        # ``clip_lora`` scales by α/√r.
        return Converted(module, config_of(module, scales[0] * math.sqrt(largest_rank)))

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        from safetensors.torch import save

        tensors = {}
        for update in split_updates(module):
            tower = "vision" if update.tower == "image" else "text"
            layer = f"{tower}_model.encoder.layers.{update.block}.self_attn.{update.part}_proj"
            tensors[f"{START}{layer}{END}"] = update.a
            tensors[f"{START}{layer}.lora_B.weight"] = update.b
        patterns = {"both": "(text|vision)", "image": "vision", "text": "text"}
        towers = patterns[config["encoder"]]
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

    A module of FLYP, which holds the difference of every weight: s B A, or 0 for a layer that the
    adapter does not change. Class weights are the features of the class names in the task's first
    template.
    """

    name = "peft_layers"
    method = "flyp"

    def recognise(self, file: Checkpoint) -> bool:
        return bool(_changed_layers(file)) and not super().recognise(file)

    def read(self, imported: Import) -> Converted:
        trained = {}
        for name, weight in imported.backbone.text.weights.items():
            trained[f"text.{name}"] = torch.zeros_like(weight)
        for name, weight in imported.backbone.image.weights.items():
            trained[f"image.{name}"] = torch.zeros_like(weight)
        for number, (path, scale_of_rank) in enumerate(_read_scales(imported)):
            a, b = _take_pair(imported, path, f"r{number} i{number}", f"o{number} r{number}")
            name, third = _place_in_tower(path, imported)
            if name not in trained:
                raise imported.error(f"changes '{path}', and the source has no '{name}'")
            # A view of the difference: the sum below is written into it.
            difference = trained[name]
            if name.endswith(("proj", "projection")):  # a tower's last projection is [d, e]
                difference = difference.T
            if third is not None:
                difference = difference.chunk(3)[third]
            if difference.shape != (len(b), a.shape[1]):
                raise imported.error(f"changes '{path}' of another size; give its own source")
            update = scale_of_rank(len(a)) * b.double() @ a.double()
            difference += update.to(difference)
        module = Module(trained | {"log_scale": torch.zeros(())})
        return Converted(module, {"templates": "first"})

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        raise CompatbenchError("differences of whole weights cannot be written as LoRA")


def _place_in_tower(path: str, imported: Import) -> tuple[str, int | None]:
    """Return the name of the weight that a layer of CLIPModel is part of.

    q, k and v are thirds of one weight's rows; their number is returned, too, and else None.

    Raises:
        CompatbenchError: the path is no linear layer of the towers.
    """
    if path == "text_projection":
        return "text.text_projection", None
    if path == "visual_projection":
        return "image.proj", None
    match = re.fullmatch(LAYER, path)
    if match is None:
        raise imported.error(f"changes '{path}', which is no linear layer of CLIPModel's towers")
    tower, block, projection, mlp_layer = match.groups()
    start = f"{TOWERS[tower]}.transformer.resblocks.{block}."
    if projection in PROJECTIONS:
        return f"{start}attn.in_proj_weight", PROJECTIONS.index(projection)
    return start + INSIDE[projection or mlp_layer], None


def _changed_layers(file: Checkpoint) -> list[str]:
    """Return the layers that an adapter changes, by their paths in the model."""
    paths = []
    for name in sorted(file.tensors):
        if name.startswith(START) and name.endswith(END):
            paths.append(name.removeprefix(START).removesuffix(END))
    return paths


def _read_scales(imported: Import) -> Iterator[tuple[str, Callable[[int], float]]]:
    """Yield the path of each layer that an adapter changes, and a function from its rank to s.

    Raises:
        CompatbenchError: the adapter's settings mean another formula than W + s B A.
    """
    config = _read_config(imported.file.path.with_name("adapter_config.json"))
    for name, values in PLAIN.items():
        value = config.get(name, values[0])
        if value not in values:
            raise imported.error(f"has '{name}': {value!r} in its settings, which is not imported")
    base = config.get("base_model_name_or_path")
    if base:
        imported.notes.append(f"trained on {base}")
    for name in sorted(imported.file.tensors):
        if not name.endswith(END) and ".lora_B." not in name:
            raise imported.error(f"holds '{name}', which is no LoRA of a linear layer")
    scale = _stable_scale if config.get("use_rslora") else _plain_scale
    for path in _changed_layers(imported.file):
        yield path, partial(scale, _find_alpha(path, config))


def _plain_scale(alpha: float, rank: int) -> float:
    return alpha / rank


def _stable_scale(alpha: float, rank: int) -> float:
    return alpha / math.sqrt(rank)


def _take_pair(imported: Import, path: str, a_sizes: str, b_sizes: str) -> tuple[Tensor, Tensor]:
    """Return the factors A and B of a layer; ``sizes`` as in ``Import.take``."""
    name = f"{START}{path}{END}"
    a = imported.take(name, a_sizes)
    b = imported.take(name.replace(".lora_A.", ".lora_B."), b_sizes)
    return a, b


def _read_config(path: Path) -> dict[str, Any]:
    """Read the settings of an adapter.

    Raises:
        CompatbenchError: the file cannot be read, or has no 'lora_alpha'.
    """
    try:
        with path.open("rb") as file:
            settings = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise CompatbenchError(
            f"cannot read {path}: {first_line(error)}; PEFT writes it beside the adapter"
        ) from None
    if not isinstance(settings, dict) or not isinstance(settings.get("lora_alpha"), int | float):
        raise CompatbenchError(f"{path} does not hold 'lora_alpha'; take the one of the adapter")
    return settings


def _find_alpha(path: str, config: Mapping[str, Any]) -> float:
    """Return PEFT's α of a layer: that of the first pattern in which its path ends."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if path == pattern or path.endswith(f".{pattern}"):
            return float(alpha)
    return float(config["lora_alpha"])
