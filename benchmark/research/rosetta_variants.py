"""Rosetta with one part taken out or replaced, for the suites beside this file."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
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


def _describe(name: str, summary: str) -> MethodCard:
    return MethodCard(
        f"rosetta_{name}",
        f"Rosetta, {summary}",
        "compatbench",
        "classifier",
        summary,
        needs={"words"},
    )


class Copied(RosettaVariant):
    card = _describe("copied", "copied as it is")

    class Config(RosettaVariant.Config):
        turn: Literal["words", "rotation", "none"] = "none"


class Rotated(RosettaVariant):
    card = _describe("rotated", "turned about the origin")

    class Config(RosettaVariant.Config):
        turn: Literal["words", "rotation", "none"] = "rotation"


class Undamped(RosettaVariant):
    card = _describe("undamped", "without ρ")

    class Config(RosettaVariant.Config):
        damped: bool = False


class FewWords(RosettaVariant):
    card = _describe("few_words", "250 words")

    class Config(RosettaVariant.Config):
        words: PositiveInt = 250


class LabelValues(RosettaVariant):
    card = _describe("labels", "labels as values")

    class Config(RosettaVariant.Config):
        ridge_values: bool = False


class Linear(RosettaVariant):
    card = _describe("linear", "linear kernel")

    class Config(RosettaVariant.Config):
        kernel: Literal["exponential", "linear"] = "linear"


class First(RosettaVariant):
    card = _describe("first", "first configuration")

    class Config(RosettaVariant.Config):
        trust: Literal["left-out", "fixed"] = "fixed"
        weight: NonNegativeFloat = 1.5
