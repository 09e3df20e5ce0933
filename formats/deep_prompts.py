"""MaPLe, IVLP, PromptSRC and VPT: their trainers save the whole model, with its frozen towers."""

from __future__ import annotations

from typing import ClassVar

from compatbench.method.checkpoint_reader import Checkpoint

from ._shared.dassl import Dassl, Part

TEXT = "prompt_learner.ctx"
BLOCKS = "transformer.resblocks.{}.VPT_shallow"
IMAGE = Part("image_encoder.VPT", "n d", f"image_encoder.{BLOCKS}", 1)
PROJECTIONS = "prompt_learner.compound_prompt_projections.{}"


class MaPLe(Dassl):
    """muzairkhattak/multimodal-prompt-learning, trainers/maple.py.

    The words of the first prompt that remain behind the context stay fixed (``context_words``).
    """

    name = method = "maple"
    parts: ClassVar = {
        "text_prompts": Part(TEXT, "M D", "prompt_learner.compound_prompts_text.{}"),
        "coupling_weight": Part("prompt_learner.proj.weight", "d D", f"{PROJECTIONS}.weight"),
        "coupling_bias": Part("prompt_learner.proj.bias", "d", f"{PROJECTIONS}.bias"),
    }
    unlike = ("film_", "adapter_", "prompt_learner.ctx_", "linear_probe_proj")
    shapes: ClassVar = {"depth": ("text_prompts", 0), "length": ("text_prompts", 1)}
    suffix = "prompt_learner.token_suffix"


class IVLP(Dassl):
    """As MaPLe, trainers/independentVL.py."""

    name = method = "ivlp"
    parts: ClassVar = {
        "text_prompts": Part(TEXT, "M D", f"text_encoder.{BLOCKS}", 1),
        "image_prompts": IMAGE,
    }
    unlike = ("film_", "prompt_learner.ZS_")
    suffix = "prompt_learner.token_suffix"
    shapes: ClassVar = {
        "text_depth": ("text_prompts", 0),
        "text_length": ("text_prompts", 1),
        "image_depth": ("image_prompts", 0),
        "image_length": ("image_prompts", 1),
    }


class PromptSRC(IVLP):
    """muzairkhattak/PromptSRC, trainers/promptsrc.py.

    Only the file of the last epoch holds the average over epochs.
    """

    name = method = "promptsrc"
    averaged = True
    unlike = ("film_",)

    def recognise(self, file: Checkpoint) -> bool:
        has_teacher = any(name.startswith("prompt_learner.ZS_") for name in file.tensors)
        return has_teacher and super().recognise(file)


class VPT(Dassl):
    """As MaPLe, trainers/vpt.py; shallow if its depth is 1."""

    name = "vpt"
    method = "vpt_deep"
    parts: ClassVar = {"image_prompts": IMAGE}
    unlike = ("prompt_learner.", "film_")
    shapes: ClassVar = {"depth": ("image_prompts", 0), "length": ("image_prompts", 1)}
