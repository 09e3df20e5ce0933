"""CLIP with fine-tuned towers, imported as the difference from the model before fine-tuning."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatbench.backbone import Backbone
from compatbench.backbone.load.checkpoint import fit_tensors
from compatbench.backbone.text.text_anatomy import text_tower
from compatbench.errors import CompatbenchError
from compatbench.method import Module
from compatbench.method.checkpoint_reader import Checkpoint
from compatbench.method.format import Converted, Format, Import

from ._shared.transformers_names import rename_tensors

# Names of the first layer of image towers.
FIRST_LAYERS = ("conv1.weight", "trunk.patch_embed.proj.weight", "patch_embed.proj.weight")
HEAD = "classification_head."
# The largest difference between normalised class features of a module and of its file.
CLOSE = 1e-4


class TunedCLIP(Format):
    """The state dict of a whole CLIP: open_clip's training (``epoch_5.pt``), FLYP's, and others'.

    So is that of a CLIPModel of transformers (``model.safetensors``). Its source is the model
    before fine-tuning, of open_clip or of transformers (``hf:FOLDER``).

    A module of FLYP: differences of both towers, of the token embeddings and the positions of
    texts, and of log s. Class weights are the features of the class names in the templates.
    """

    name = "clip"
    method = "flyp"
    has_head: ClassVar[bool] = False

    def recognise(self, file: Checkpoint) -> bool:
        file = _rename(file)
        has_head = f"{HEAD}weight" in file.tensors
        return has_head == self.has_head and _find_prefix(file) is not None

    def read(self, imported: Import) -> Converted:
        backbone = imported.backbone
        tuned = _load(imported)
        trained = {"log_scale": tuned.model.logit_scale - backbone.model.logit_scale}  # type: ignore[operator]
        old_embeddings = _embeddings(backbone.model)
        for name, new in _embeddings(tuned.model).items():
            trained[f"embeddings.{name}"] = new - old_embeddings[name]
        trained |= _subtract_tower(tuned, backbone, "text")
        trained |= _subtract_tower(tuned, backbone, "image")
        return Converted(Module(trained).detach(), {})

    def confirm(self, imported: Import, method: Any, module: Module) -> bool:
        """Compare features of the module's texts with those of the file's own tower.

        Return False: the file contains no class names that could be confirmed.
        """
        tuned = method.tune(module, imported.backbone, imported.labels)
        ours = F.normalize(tuned.encode_texts(), dim=-1)
        theirs = F.normalize(_load(imported).text_features(tuned.texts), dim=-1)
        if float((ours - theirs).abs().max()) > CLOSE:
            raise imported.error(
                "has a text tower whose embeddings are not added as CLIP adds them"
            )
        return False


class WiSEFTWeights(TunedCLIP):
    """mlfoundations/wise-ft, the state dict of an ``ImageClassifier``: image tower and head.

    The head is kept as the difference from the zero-shot head of the template, s W_0. If the file
    is a whole CLIP without a head, the tuned text tower gives the head. So the transfers of weight
    differences serve such a file, too.
    """

    name = method = "wise_ft_weights"
    has_head = True

    def read(self, imported: Import) -> Converted:
        backbone = imported.backbone
        tuned = _load(imported)
        if f"{HEAD}weight" in imported.file.tensors:
            weight = imported.take(f"{HEAD}weight", "C e")
            bias = imported.take(f"{HEAD}bias", "C")
        else:
            weight = tuned.logit_scale * tuned.zero_shot(imported.labels)
            bias = torch.zeros_like(weight[:, 0])
        templates = imported.settings.setdefault("templates", "first")
        if templates != "first":
            raise imported.error(
                "is imported beside the task's first template, --set templates=first"
            )
        start = backbone.logit_scale * backbone.zero_shot(imported.labels)
        head = {"weight": weight.to(start) - start, "bias": bias.to(start)}
        tower = _subtract_tower(tuned, backbone, "image")
        return Converted(Module(tower | head).detach(), {})

    def confirm(self, imported: Import, method: Any, module: Module) -> bool:
        return False


def _rename(file: Checkpoint) -> Checkpoint:
    """Return a file with the names of open_clip, if it has those of transformers' CLIPModel."""
    return replace(file, tensors=rename_tensors(file.tensors))


def _find_prefix(file: Checkpoint) -> str | None:
    """Return the prefix of the names of a whole CLIP, such as ``image_encoder.model.``.

    Return None if the file has no image tower, or several.
    """
    prefixes = set()
    for name in file.tensors:
        for layer in FIRST_LAYERS:
            suffix = f"visual.{layer}"
            if name.endswith(suffix):
                prefixes.add(name.removesuffix(suffix))
    return prefixes.pop() if len(prefixes) == 1 else None


def _load(imported: Import) -> Backbone:
    """Return a copy of the source with the weights of the file.

    Raises:
        CompatbenchError: the file is no whole CLIP, its weights do not fit, or one is not finite.
    """
    backbone = imported.backbone
    if any("vision_model.head." in name for name in imported.file.tensors):
        raise imported.error(
            "is a whole SigLIP, and compatbench reads whole models of CLIP only: give an adapter "
            "of PEFT, or a probe on its features"
        )
    imported.file = _rename(imported.file)
    prefix = _find_prefix(imported.file)
    if prefix is None:
        raise imported.error(
            "is no state dict of a whole CLIP by the names of CLIP, open_clip or transformers"
        )
    tensors = {}
    for name, tensor in imported.file.tensors.items():
        if name.startswith(prefix) and not name.startswith(HEAD):
            tensors[name.removeprefix(prefix)] = tensor
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise imported.error(f"has numbers in '{name}' that are NaN or infinite")
        imported.dtype = imported.dtype or str(tensor.dtype).removeprefix("torch.")
    source_state = backbone.model.state_dict()
    if "transformer.resblocks.0.ln_1.weight" in source_state.keys() - tensors.keys():
        # WiSE-FT drops the text tower, which it does not train. The source's takes its place.
        image_names = [name for name in tensors if name.startswith("visual.")]
        tensors = source_state | {name: tensors[name] for name in image_names}
    model: nn.Module = copy.deepcopy(backbone.model)
    fitted = fit_tensors(tensors, model, f"{imported.file.path}, for '{backbone.name}'")
    model.load_state_dict({name: tensor.to(source_state[name]) for name, tensor in fitted.items()})
    return Backbone(backbone.card, model, backbone.device, "tuned")


def _embeddings(model: nn.Module) -> dict[str, Tensor]:
    """Return the token embeddings and the positions of a text tower.

    Raises:
        CompatbenchError: the tower has none by CLIP's names.
    """
    tower = text_tower(model)
    try:
        return {"tokens": tower.token_embedding.weight, "positions": tower.positional_embedding}
    except AttributeError:
        raise CompatbenchError("the source has no text tower of CLIP's kind") from None


def _subtract_tower(tuned: Backbone, backbone: Backbone, tower: str) -> dict[str, Tensor]:
    """Return the difference of each weight of a tower, named ``<tower>.<name>``."""
    new = getattr(tuned, tower).weights
    old = getattr(backbone, tower).weights
    return {f"{tower}.{name}": new[name] - weight for name, weight in old.items()}
