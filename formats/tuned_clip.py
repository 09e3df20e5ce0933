"""CLIP whose towers were fine-tuned: imported as the difference to the model that it began as."""

from __future__ import annotations

import copy
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

IMAGES = ("conv1.weight", "trunk.patch_embed.proj.weight", "patch_embed.proj.weight")
HEAD = "classification_head."
CLOSE = 1e-4  # by which class features of module and file may differ, as unit vectors


class TunedCLIP(Format):
    """The state dict of a whole CLIP: open_clip's training (``epoch_5.pt``), FLYP's, and others'.

    A module of FLYP: differences of both towers, of the token embeddings and the positions of
    texts, and of log s. Class weights are the features of the class names in the templates.
    """

    name, method = "clip", "flyp"
    has_head: ClassVar[bool] = False

    def recognise(self, file: Checkpoint) -> bool:
        return _start_of(file) is not None and self.has_head == (f"{HEAD}weight" in file.tensors)

    def read(self, imported: Import) -> Converted:
        backbone, tuned = imported.backbone, _load(imported)
        trained = {"log_scale": tuned.model.logit_scale - backbone.model.logit_scale}  # type: ignore[operator]
        parts = [_embeddings(each.model) for each in (tuned, backbone)]
        trained |= {f"embeddings.{name}": new - parts[1][name] for name, new in parts[0].items()}
        module = Module(trained | _difference(tuned, backbone, "text", "image")).detach()
        return Converted(module, {})

    def confirm(self, imported: Import, method: Any, module: Module) -> bool:
        """Compares features of texts with those of the file's own tower; no class is confirmed."""
        texts = method.tune(module, imported.backbone, imported.labels)
        pair = texts.encode_texts(), _load(imported).text_features(texts.texts)
        encoded, wanted = (F.normalize(features, dim=-1) for features in pair)
        if float((encoded - wanted).abs().max()) > CLOSE:
            raise imported.error(
                "has a text tower whose embeddings are not added as CLIP adds them"
            )
        return False


class WiSEFTWeights(TunedCLIP):
    """mlfoundations/wise-ft, the state dict of an ``ImageClassifier``: image tower and head.

    The head is kept as the difference to the zero-shot head of the template, s W_0. Of a whole CLIP
    without a head it is what the tuned text tower makes of the class names, so that the transfers
    of weight differences serve that, too.
    """

    name = method = "wise_ft_weights"
    has_head = True

    def read(self, imported: Import) -> Converted:
        backbone, tuned = imported.backbone, _load(imported)
        if f"{HEAD}weight" in imported.file.tensors:
            weight, bias = (
                imported.take(f"{HEAD}weight", "C e"),
                imported.take(f"{HEAD}bias", "C"),
            )
        else:
            weight = tuned.logit_scale * tuned.zero_shot(imported.labels)
            bias = torch.zeros_like(weight[:, 0])
        which = imported.settings.setdefault("templates", "first")
        if which != "first":
            raise imported.error(
                "is imported beside the task's first template, --set templates=first"
            )
        start = backbone.logit_scale * backbone.zero_shot(imported.labels)
        head = {"weight": weight.to(start) - start, "bias": bias.to(start)}
        return Converted(Module(_difference(tuned, backbone, "image") | head).detach(), {})

    def confirm(self, imported: Import, method: Any, module: Module) -> bool:
        return False


def _start_of(file: Checkpoint) -> str | None:
    """What stands before the names of a whole CLIP, such as ``image_encoder.model.``."""
    starts = {
        name.removesuffix(f"visual.{end}")
        for name in file.tensors
        for end in IMAGES
        if name.endswith(f"visual.{end}")
    }
    return starts.pop() if len(starts) == 1 else None


def _load(imported: Import) -> Backbone:
    """The source with the weights of the file."""
    backbone, start = imported.backbone, _start_of(imported.file)
    if start is None or backbone.card.provider == "hf":
        raise imported.error("is no state dict of a whole CLIP, by the names of CLIP or open_clip")
    tensors = {
        name.removeprefix(start): tensor
        for name, tensor in imported.file.tensors.items()
        if name.startswith(start) and not name.startswith(HEAD)
    }
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise imported.error(f"has numbers in '{name}' that are NaN or infinite")
        imported.dtype = imported.dtype or str(tensor.dtype).removeprefix("torch.")
    source_state = backbone.model.state_dict()
    if "transformer.resblocks.0.ln_1.weight" in source_state.keys() - tensors.keys():
        # WiSE-FT drops the text tower, which it does not train.
        tensors = source_state | {
            name: t for name, t in tensors.items() if name.startswith("visual.")
        }
    model: nn.Module = copy.deepcopy(backbone.model)
    what = f"{imported.file.path}, for '{backbone.name}'"
    fitted = fit_tensors(tensors, model, what)
    model.load_state_dict({name: tensor.to(source_state[name]) for name, tensor in fitted.items()})
    return Backbone(backbone.card, model, backbone.device, "tuned")


def _embeddings(model: nn.Module) -> dict[str, Tensor]:
    tower = text_tower(model)
    try:
        return {"tokens": tower.token_embedding.weight, "positions": tower.positional_embedding}
    except AttributeError:
        raise CompatbenchError("the source has no text tower of CLIP's kind") from None


def _difference(tuned: Backbone, backbone: Backbone, *towers: str) -> dict[str, Tensor]:
    differences = dict[str, Tensor]()
    for tower in towers:
        new, old = (getattr(each, tower).weights for each in (tuned, backbone))
        differences |= {f"{tower}.{name}": new[name] - weight for name, weight in old.items()}
    return differences
