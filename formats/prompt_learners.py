"""CoOp and its relatives: their trainers save the prompt learner, and others the whole model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch

from compatbench.method import Module
from compatbench.method.checkpoint_reader import Checkpoint
from compatbench.method.format import Converted, Import

from ._shared.dassl import Dassl, Part

NETWORK = {
    "down": Part("meta_net.linear1.weight", "h e"),
    "down_bias": Part("meta_net.linear1.bias", "h"),
    "up": Part("meta_net.linear2.weight", "w h"),
    "up_bias": Part("meta_net.linear2.bias", "w"),
}


# Parts of other trainers' models, whose prompt learners have a context, too.
OTHERS = ("film_", "linear_probe_proj", "image_encoder.VPT", "prompt_learner.ZS_")
OTHERS += ("prompt_learner.compound_", "prompt_learner.proj.")
LEARNER = "prompt_learner."


def unwrap(file: Checkpoint) -> Checkpoint:
    """Return the prompt learner of a file, which may be the state dict of the whole model."""
    if f"{LEARNER}ctx" not in file.tensors:
        return file
    if any(name.startswith(OTHERS) for name in file.tensors):
        return file
    tensors = {}
    for name, tensor in file.tensors.items():
        if name.startswith(LEARNER):
            tensors[name.removeprefix(LEARNER)] = tensor
    return replace(file, tensors=tensors)


class Learner(Dassl):
    """A trainer whose files hold the prompt learner, or the whole model with it."""

    def recognise(self, file: Checkpoint) -> bool:
        return super().recognise(unwrap(file))

    def read(self, imported: Import) -> Converted:
        imported.file = unwrap(imported.file)
        return super().read(imported)


class CoOp(Learner):
    """KaiyangZhou/CoOp, trainers/coop.py.

    No file contains the position of the name in the context (``position``).
    """

    name = method = "coop"
    undecided: ClassVar = {"position": ("end", "middle", "front")}
    parts: ClassVar = {"context": Part("ctx", "M D")}
    unlike = ("meta_net.", "bias_vectors", "ctx_", "token_middle", "text_feature_residuals")
    suffix = "token_suffix"

    def config(self, module: Module) -> dict[str, Any]:
        context = module["context"]
        return {"context_length": context.shape[-2], "class_specific": context.ndim == 3}

    def read(self, imported: Import) -> Converted:
        imported.file = unwrap(imported.file)
        context = imported.file.tensors.get("ctx")
        if context is None or context.ndim != 3:
            return super().read(imported)
        module = Module({"context": imported.take("ctx", "C M D")})
        return Converted(module, self.config(module))


class ProGrad(CoOp):
    """BeierZhu/Prompt-align, trainers/prograd.py: its files look like CoOp's."""

    name = method = "prograd"

    def recognise(self, file: Checkpoint) -> bool:
        return False


class KgCoOp(CoOp):
    """htyao89/KgCoOp, trainers/kgcoop.py; vectors and a network in it were never trained."""

    name = method = "kgcoop"
    unlike = ()

    def recognise(self, file: Checkpoint) -> bool:
        return "bias_vectors" in unwrap(file).tensors and super().recognise(file)


class ATPrompt(Learner):
    """zhengli97/ATPrompt, trainers/coop_atp.py; its attributes are words of one token each.

    A file holds the words' token embeddings, with which the setting ``attributes`` is compared.
    It has vectors for three attributes; those of attributes that it does not use were never
    trained.
    """

    name = method = "atprompt"
    parts: ClassVar = {
        "context": Part("ctx", "M D"),
        "attribute_context": Part("ctx_att1", "N D", "ctx_att{}", 2),
    }
    shapes: ClassVar = {
        "context_length": ("context", -2),
        "attribute_length": ("attribute_context", -2),
    }
    unlike = ("meta_net.",)
    suffix = "token_suffix"

    def read(self, imported: Import) -> Converted:
        imported.file = unwrap(imported.file)
        words = imported.settings.setdefault("attributes", ["color", "shape"])
        count = sum(f"token_middle{number}" in imported.file.tensors for number in (1, 2, 3))
        if count not in (0, len(words)):
            raise imported.error(f"has {count} attributes, and --set attributes has {len(words)}")
        rows = []
        for number, word in enumerate(words, 1):
            rows.append(imported.take(f"ctx_att{number}", "N D"))
            if count == 0:
                continue
            saved_word = imported.file.tensors[f"token_middle{number}"][0]
            our_word = imported.backbone.embed_text(word).to(saved_word.dtype)
            if not torch.equal(saved_word, our_word):
                raise imported.error(
                    f"has another word than '{word}' as attribute {number}: give the words and "
                    """the source that it was trained with, --set 'attributes=["color"]'"""
                )
        module = Module(
            {"context": imported.take("ctx", "M D"), "attribute_context": torch.stack(rows)}
        )
        return Converted(module, self.config(module))


class CoCoOp(Learner):
    """KaiyangZhou/CoOp, trainers/cocoop.py."""

    name = method = "cocoop"
    parts: ClassVar = {"context": Part("ctx", "M D"), **NETWORK}
    unlike = ("bias_vectors", "ctx_", "token_middle")
    suffix = "token_suffix"
    # The network gives one row for each vector of the context, or one for all of them.
    rows_for_each_vector: ClassVar = False

    def recognise(self, file: Checkpoint) -> bool:
        return super().recognise(file) and not self._problem(unwrap(file))

    def _problem(self, file: Checkpoint) -> str:
        """Return how the network's outputs differ from those of the format, or an empty text."""
        vectors, width = file.tensors["ctx"].shape
        outputs = len(file.tensors[NETWORK["up_bias"].key])
        expected = width * vectors if self.rows_for_each_vector else width
        if outputs == expected:
            return ""
        return f"has a network of {outputs} outputs, where {self.name} has {expected}"

    def read(self, imported: Import) -> Converted:
        converted = super().read(imported)
        problem = self._problem(imported.file)
        if problem:
            raise imported.error(f"{problem}; is the format right?")
        return converted

    def config(self, module: Module) -> dict[str, Any]:
        hidden, size = module["down"].shape
        return {"context_length": len(module["context"]), "reduction": max(1, size // hidden)}


class TCP(CoCoOp):
    """htyao89/Textual-based_Class-aware_prompt_tuning, trainers/tcp.py.

    The features of the teacher's prompts are not saved; they are made anew (``teacher``).
    """

    name = method = "tcp"
    rows_for_each_vector = True


class DePT(Dassl):
    """Koorye/DePT, trainers/elp_coop.py and elp_kgcoop.py, whose heads are the same."""

    name = method = "dept"
    parts: ClassVar = {
        "context": Part("prompt_learner.ctx", "M D"),
        "image_gain": Part("film_lp_img.scale", "e"),
        "image_shift": Part("film_lp_img.bias", "e"),
        "text_gain": Part("film_lp_text.scale", "e"),
        "text_shift": Part("film_lp_text.bias", "e"),
        "head": Part("linear_probe_proj.weight", "C e"),
        "head_bias": Part("linear_probe_proj.bias", "C"),
    }
    unlike = ("prompt_learner.compound_", "prompt_learner.meta_net.linear2")
    suffix = "prompt_learner.token_suffix"
    shapes: ClassVar = {"context_length": ("context", 0)}
