"""DCLIP: a class is as likely as its descriptors are similar to the image, on average.

A language model has listed what can be seen of each class, such as "a long neck". An image is
compared with every descriptor, and its similarities to those of a class are averaged; nothing
is learned.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import Backbone, Classifier, Labels, MethodCard, Module

from .zeroshot import ZeroShot

LINKS = {
    **dict.fromkeys(("a", "an", "used"), "which is"),
    **dict.fromkeys(("has", "have", "often", "typically", "may", "can"), "which"),
}


class DCLIP(ZeroShot):
    """z_c = s · (1/J) Σ_j ⟨f̂, t̂_cj⟩ over the J texts "NAME, which has DESCRIPTOR" of class c.

    Menon and Vondrick, *Visual Classification via Description from Large Language Models*,
    section 2. It is a mean of similarities: unlike CuPL's, the mean of a class's features is not
    normalised again, and a class whose descriptors disagree gets smaller logits.

    A task's descriptions may be phrases, as the authors', or sentences; see ``join``. Nothing is
    learned.
    """

    card = MethodCard(
        name="dclip",
        title="DCLIP",
        paper="arXiv:2210.07183",
        inserts="none",
        summary="the mean similarity to descriptors of a class is its logit",
        needs={"descriptions"},
        learns=False,
    )

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        # Where a task has no descriptions, ``describe`` says so.
        pairs = zip(labels.names, labels.descriptions, strict=False)
        texts = tuple(tuple(join(name, text) for text in of_class) for name, of_class in pairs)
        features = backbone.describe(replace(labels, descriptions=texts))
        weights = torch.stack([of_class.mean(0) for of_class in features])
        scale = backbone.logit_scale

        def classify(images: Tensor) -> Tensor:
            return scale * F.normalize(images, dim=-1) @ weights.T

        return classify


def join(name: str, text: str) -> str:
    """A class name and a descriptor as one text.

    A phrase is joined as the authors do: "NAME, which has long ears", "which is a bird", "which
    often barks". Their code takes any word that begins with "a" for an article ("which is
    antlers"); here only "a" and "an" are. A sentence stands as it is if it has the name, and
    otherwise behind the name and a colon.
    """
    name = name.replace("_", " ")
    if text[0].isupper() or re.search(r"[.!?](\s|$)", text):
        named = re.search(rf"\b{re.escape(name)}", text.replace("_", " "), re.IGNORECASE)
        return text if named else f"{name}: {text}"
    return f"{name}, {LINKS.get(text.split()[0].casefold(), 'which has')} {text}"
