"""DCLIP: the logit of a class is the mean similarity of the image to the descriptors of the class.

A language model has listed visible features of each class, such as "a long neck". An image is
compared with every descriptor, and the similarities are averaged for each class; nothing is
learned.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import Backbone, Classifier, Labels, MethodCard, Module

from .zeroshot import ZeroShot

# The link between a name and a phrase, by the phrase's first word; any other is "which has".
LINKS = {
    **dict.fromkeys(("a", "an", "used"), "which is"),
    **dict.fromkeys(("has", "have", "often", "typically", "may", "can"), "which"),
}


class DCLIP(ZeroShot):
    """z_c = s · (1/J) Σ_j ⟨f̂, t̂_cj⟩ over the J texts "NAME, which has DESCRIPTOR" of class c.

    Menon and Vondrick, *Visual Classification via Description from Large Language Models*,
    section 2. Unlike in CuPL, the mean feature of a class is not normalised again, so a class
    whose descriptors disagree gets smaller logits. Descriptions may be phrases, as the authors'
    are, or sentences; see ``join``.
    """

    card = MethodCard(
        name="dclip",
        title="DCLIP",
        paper="arXiv:2210.07183",
        inserts="none",
        summary="mean similarity to the descriptors of a class",
        needs={"descriptions"},
        learns=False,
    )

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        texts = []
        # If a task has no descriptions, the texts are empty, and ``describe`` raises.
        for name, descriptors in zip(labels.names, labels.descriptions, strict=False):
            texts.append(tuple(join(name, descriptor) for descriptor in descriptors))
        features = backbone.describe(replace(labels, descriptions=tuple(texts)))
        weights = torch.stack([class_features.mean(0) for class_features in features])
        scale = backbone.logit_scale

        def classify(images: Tensor) -> Tensor:
            return scale * F.normalize(images, dim=-1) @ weights.T

        return classify


def join(name: str, text: str) -> str:
    """Join a class name and a descriptor.

    A phrase is joined as the authors do: "NAME, which has long ears", "which is a bird", "which
    often barks". Their code takes any word that begins with "a" for an article ("which is
    antlers"); here only "a" and "an" are articles. A sentence that contains the name stays as it
    is; any other sentence follows the name and a colon.
    """
    name = name.replace("_", " ")
    is_sentence = text[0].isupper() or re.search(r"[.!?](\s|$)", text)
    if is_sentence:
        has_name = re.search(rf"\b{re.escape(name)}", text.replace("_", " "), re.IGNORECASE)
        return text if has_name else f"{name}: {text}"
    first_word = text.split()[0].casefold()
    link = LINKS.get(first_word, "which has")
    return f"{name}, {link} {text}"
