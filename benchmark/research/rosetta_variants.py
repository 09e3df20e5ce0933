"""Rosetta with one part taken out or replaced, for the suites beside this file."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import create_model
from torch import Tensor

from compatbench.backbone.joint_maps import fit_rotation
from compatbench.method import Backbone, Classifier, FewShotData, Labels, MethodCard, Module
from compatbench.methods.rosetta import (  # pyright: ignore[reportMissingImports]
    Rosetta,
    centred_labels,
    solve_values,
    spread,
)


class RosettaVariant(Rosetta):
    """Rosetta, by default unchanged.

    ``turn``: ``none`` reads the target's features as if they were the source's, ``rotation``
    turns them about the origin and not about the means of the words. ``damped``: whether ρ
    counts. ``ridge_values``: whether the values are solved for, or are the centred labels, as in
    Tip-Adapter, with the same spread. ``kernel``: ``linear`` is f̂ · g. ``trust``: ``fixed``
    makes the spread of the second expert, of shots predicted from all others, ``weight`` times
    that of the first, however few the shots are.
    """

    class Config(Rosetta.Config):
        turn: Literal["words", "rotation", "none"] = "words"
        damped: bool = True
        ridge_values: bool = True
        kernel: Literal["exponential", "linear"] = "exponential"
        trust: Literal["left-out", "fixed"] = "left-out"

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        module = super().fit(backbone, data, rng)
        values, keys = module["values"], module["keys"]
        kernel, classes = self._affinity(keys, keys), len(data.labels)
        if self.config.trust == "fixed":
            solved, left_out = solve_values(kernel, data.train.targets, classes, self.config.ridge)
            text = spread(keys @ backbone.zero_shot(data.labels).T)
            values = solved * self.config.weight * text / spread(left_out).clamp(min=1e-6)
        if not self.config.ridge_values:
            labels = centred_labels(data.train.targets, classes).to(values)
            values = labels * (spread(kernel @ values) / spread(kernel @ labels).clamp(min=1e-6))
        return Module({"values": values}, module.stored)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        own = self._encode(backbone)
        stored, values = dict(module.stored), module["values"]
        turn = fit_rotation(stored["words"], own)
        if self.config.turn == "none":
            stored |= {"words": own - own.mean(0), "mean": own.mean(0)}
        elif self.config.turn == "rotation":
            stored["mean"] = (turn.target_mean @ turn.rotation.T).to(values)
        if not self.config.damped:
            values = values / max(1 - turn.residual, 1e-6) ** 0.5
        return super().attach(Module({"values": values}, stored), backbone, labels)

    def _affinity(self, features: Tensor, keys: Tensor) -> Tensor:
        if self.config.kernel == "linear":
            return features @ keys.T
        return super()._affinity(features, keys)


def vary(name: str, summary: str, **settings: object) -> type[RosettaVariant]:
    """The method with other settings, under a name of its own."""
    known = RosettaVariant.Config.model_fields
    changed: Any = {field: (known[field].annotation, value) for field, value in settings.items()}
    about = f"rosetta_{name}", f"Rosetta, {summary}", "compatbench", "classifier", summary
    config = create_model("Config", __base__=RosettaVariant.Config, **changed)
    values = {"card": MethodCard(*about, needs={"words"}), "Config": config, "__module__": __name__}
    return type(name, (RosettaVariant,), values)


Copied = vary("copied", "copied as it is", turn="none")
Rotated = vary("rotated", "turned about the origin", turn="rotation")
Undamped = vary("undamped", "without ρ", damped=False)
FewWords = vary("few_words", "250 words", words=250)
LabelValues = vary("labels", "labels as values", ridge_values=False)
Linear = vary("linear", "linear kernel", kernel="linear")
First = vary("first", "first configuration", trust="fixed", weight=1.5)
