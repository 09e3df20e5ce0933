"""LoRA adapters of Hugging Face's PEFT on CLIPModel and SiglipModel of transformers."""

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

from ._shared.transformers_names import TOWERS, Place, find_place
from .clip_lora import Update, config_of, split_updates, stack_updates

# An adapter's tensor of a layer is named START + path of the layer + END.
START = "base_model.model."
END = ".lora_A.weight"
MAGNITUDE = ".lora_magnitude_vector"  # of DoRA
# Paths of q, k and v; those of a tower that was adapted alone do not name it.
PROJECTION = r"(?:(?:.*\.)?(text|vision)_model\.)?encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj"
CONFIG = "adapter_config.json"  # beside the adapter
MAX_BYTES = 1 << 20
# The values of settings under which an adapter means W + s B A.
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None,),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "init_lora_weights": (True, False, None, "gaussian"),
}
# The same for ``clip_lora``, which has no place for other tensors.
ONLY_LORA: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "modules_to_save": (None, []),
}


class PEFT(Format):
    """huggingface/peft on CLIPModel: ``adapter_model.safetensors`` with ``adapter_config.json``.

    LoRA of q, k and v, of any rank, as modules of ``clip_lora``.
    """

    name = "peft"
    method = "clip_lora"

    def recognise(self, file: Checkpoint) -> bool:
        paths = _changed_layers(file)
        are_plain = all(END in name or ".lora_B." in name for name in file.tensors)
        return bool(paths) and are_plain and all(re.fullmatch(PROJECTION, path) for path in paths)

    def read(self, imported: Import) -> Converted:
        updates: list[Update] = []
        scales = []
        config = _read_config(imported, PLAIN | ONLY_LORA)
        for name in sorted(imported.file.tensors):
            if not name.endswith(END) and ".lora_B." not in name:
                raise imported.error(
                    f"holds '{name}', which is no LoRA of a linear layer; import it as "
                    "'peft_layers'"
                )
        for path, scale_of_rank in _read_scales(imported, config):
            place = re.fullmatch(PROJECTION, path)
            if place is None:
                raise imported.error(
                    f"changes '{path}', and '{self.method}' changes q, k and v of the towers of "
                    "CLIPModel alone; import it as 'peft_layers'"
                )
            tower = TOWERS[place[1] or _find_tower(imported, config)]
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
        module = stack_updates(rescaled, imported.backbone)
        largest_rank = max(len(update.a) for update in updates)
        # ``clip_lora`` scales by α/√r.
        return Converted(module, config_of(module, scales[0] * math.sqrt(largest_rank)))

    def list_beside(self, path: Path) -> list[Path]:
        return [path.with_name(CONFIG)]

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
            path / CONFIG: json.dumps(settings, indent=2).encode(),
        }


class PEFTOfLayers(PEFT):
    """The same of other layers as well: ``out_proj``, ``fc1``, ``fc2``, projections (all-linear).

    Also DoRA, and tensors that were trained whole (``modules_to_save``). A module of FLYP, which
    holds the difference of every weight: s B A, or 0 for a layer that the adapter does not change.
    Class weights are the features of the class names in the task's first template.
    """

    name = "peft_layers"
    method = "flyp"

    def recognise(self, file: Checkpoint) -> bool:
        return bool(_changed_layers(file)) and not super().recognise(file)

    def read(self, imported: Import) -> Converted:
        config = _read_config(imported, PLAIN)
        is_dora = any(MAGNITUDE in name for name in imported.file.tensors)
        if is_dora != bool(config.get("use_dora")):
            raise imported.error(
                f"has 'use_dora': {config.get('use_dora')!r} in its settings, and its tensors say "
                "otherwise; take the settings of the adapter"
            )
        before: dict[str, Tensor] = {}
        for tower in TOWERS.values():
            for name, weight in getattr(imported.backbone, tower).weights.items():
                before[f"{tower}.{name}"] = weight
        trained = {name: torch.zeros_like(weight) for name, weight in before.items()}

        def views(path: str) -> tuple[Tensor, Tensor]:
            """Return the old weight, and its difference, as the adapter has them: ``[out, in]``."""
            name, place = _find_weight(path, imported, config)
            if name not in trained:
                raise imported.error(f"changes '{path}', and the source has no '{name}'")
            pair = []
            for tensors in (before, trained):
                # A view: the difference is written into it.
                tensor = tensors[name].T if place.transposed else tensors[name]
                pair.append(tensor if place.third is None else tensor.chunk(3)[place.third])
            return pair[0], pair[1]

        for number, (path, scale_of_rank) in enumerate(_read_scales(imported, config)):
            a, b = _take_pair(imported, path, f"r{number} i{number}", f"o{number} r{number}")
            old, difference = views(f"{path}.weight")
            if difference.shape != (len(b), a.shape[1]):
                raise imported.error(f"changes '{path}' of another size; give its own source")
            update = scale_of_rank(len(a)) * b.double() @ a.double()
            magnitude = _find_magnitude(imported.file, path)
            if magnitude:
                # DoRA: each row of the new weight gets the length that was learned for it.
                new = old.double() + update
                lengths = imported.take(magnitude, f"o{number}").double()
                update = new * (lengths / new.norm(dim=1))[:, None] - old.double()
            difference += update.to(difference)
        for key in _saved_tensors(imported.file):
            old, difference = views(key.removeprefix(START))
            new = imported.file.tensors[key]
            if new.shape != old.shape:
                raise imported.error(f"changes '{key}' of another size; give its own source")
            new = imported.take(key, " ".join(f"{key}-{size}" for size in range(new.ndim)))
            difference += (new.double() - old.double()).to(difference)
        module = Module(trained | {"log_scale": torch.zeros(())})
        return Converted(module, {"templates": "first"})

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        raise CompatbenchError("differences of whole weights cannot be written as LoRA")


def _find_weight(path: str, imported: Import, config: Mapping[str, Any]) -> tuple[str, Place]:
    """Return the name and the place of a weight among those of both towers.

    Raises:
        CompatbenchError: the path is no weight of the towers.
    """
    name = re.sub(r"^.*\.(?=(text|vision)_model\.)", "", path)
    if name.startswith("encoder.layers."):
        name = f"{_find_tower(imported, config)}_model.{name}"
    place = find_place(name)
    if place is None:
        raise imported.error(
            f"changes '{path}', which is no weight of the towers of CLIPModel or SiglipModel; "
            "merge_and_unload() in PEFT gives a whole model, which is imported as 'clip'"
        )
    return f"{place.tower}.{place.name}", place


def _find_tower(imported: Import, config: Mapping[str, Any]) -> str:
    """Return the tower that was adapted alone, ``vision`` or ``text``, from the model's class.

    Raises:
        CompatbenchError: the settings do not name a class of one tower.
    """
    mapping = config.get("auto_mapping")
    model = str(mapping.get("base_model_class")) if isinstance(mapping, dict) else ""
    for tower in TOWERS:
        if tower.capitalize() in model:
            return tower
    raise imported.error(
        "does not say which tower it changes: give adapter_config.json the class of the model, "
        '"auto_mapping": {"base_model_class": "CLIPVisionModel"} (or CLIPTextModel)'
    )


def _find_magnitude(file: Checkpoint, path: str) -> str:
    """Return the name of DoRA's lengths for a layer; '' if the layer has none."""
    for ending in ("", ".weight"):
        name = f"{START}{path}{MAGNITUDE}{ending}"
        if name in file.tensors:
            return name
    return ""


def _saved_tensors(file: Checkpoint) -> list[str]:
    """Return the tensors that were trained whole."""
    parts = (".lora_A.", ".lora_B.", MAGNITUDE)
    return [name for name in sorted(file.tensors) if not any(part in name for part in parts)]


def _changed_layers(file: Checkpoint) -> list[str]:
    """Return the layers that an adapter changes, by their paths in the model."""
    paths = []
    for name in sorted(file.tensors):
        if name.startswith(START) and name.endswith(END):
            paths.append(name.removeprefix(START).removesuffix(END))
    return paths


def _read_scales(
    imported: Import, config: Mapping[str, Any]
) -> Iterator[tuple[str, Callable[[int], float]]]:
    """Yield the path of each layer that an adapter changes, and a function from its rank to s."""
    scale = _stable_scale if config.get("use_rslora") else _plain_scale
    for path in _changed_layers(imported.file):
        yield path, partial(scale, _find_alpha(imported, path, config))


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


def _read_config(imported: Import, plain: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Read the settings of an adapter.

    Raises:
        CompatbenchError: the file cannot be read, has no 'lora_alpha', or means another formula
            than that of the ``plain`` values.
    """
    path = imported.file.path.with_name(CONFIG)
    try:
        with path.open("rb") as file:
            settings = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise CompatbenchError(
            f"cannot read {path}: {first_line(error)}; PEFT writes it beside the adapter"
        ) from None
    if not isinstance(settings, dict) or not isinstance(settings.get("lora_alpha"), int | float):
        raise CompatbenchError(f"{path} does not hold 'lora_alpha'; take the one of the adapter")
    for name, values in plain.items():
        value = settings.get(name, values[0])
        hint = "merge_and_unload() in PEFT gives a whole model, which is imported as 'clip'"
        if name in ONLY_LORA:
            hint = "name the format 'peft_layers'"
        if value not in values:
            raise imported.error(
                f"has '{name}': {value!r} in its settings, which is not imported; {hint}"
            )
    base = settings.get("base_model_name_or_path")
    if base:
        imported.notes.append(f"trained on {base}")
    return settings


def _find_alpha(imported: Import, path: str, config: Mapping[str, Any]) -> float:
    """Return PEFT's α of a layer: that of the first pattern that matches the end of its path.

    Raises:
        CompatbenchError: a pattern is not a regular expression.
    """
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", path)
        except re.error as error:
            raise imported.error(
                f"has {pattern!r} in the 'alpha_pattern' of its settings, which is not a regular "
                f"expression: {first_line(error)}"
            ) from None
        if matches:
            return float(alpha)
    return float(config["lora_alpha"])
