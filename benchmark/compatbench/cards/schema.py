"""The schemas of backbone and suite cards, and what all schemas share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from compatbench.cards.yamlfile import CardModel

# A name becomes part of a path, so it may not hold separators or dots alone.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
# Inside tasks/ and nowhere else.
_PART = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
RelativePath = Annotated[str, StringConstraints(pattern=rf"^{_PART}(/{_PART})*$")]


class BackboneCard(CardModel):
    """A frozen vision-language model: architecture, weights and lineage."""

    name: Name
    title: str
    config: Name = Field(description="name of the open_clip model config")
    weights: RelativePath = Field(description="safetensors file, relative to tasks/")
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    tokenizer: RelativePath | None = Field(
        None, description="merges of a byte-pair tokenizer, relative to tasks/; default: CLIP's"
    )
    lineage: str = Field("", description="what the weights were initialised from")
    data: str = ""
    licence: str


class TrainingCard(CardModel):
    """What a suite decides for every trained method."""

    views: PositiveInt = Field(
        1, description="cached augmentations per image, cycled by epoch; 1 is the plain view"
    )
    crop_scale: tuple[float, float] = Field(
        (0.08, 1.0), description="share of the image's area kept by a random crop"
    )
    flip: bool = True
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="what the frozen towers compute in; modules are float32 always"
    )
    max_steps: PositiveInt | None = Field(
        None, description="most optimiser steps a fit may take; its epochs get fewer and shorter"
    )


class SuiteCard(CardModel):
    """A matrix: upgrades × tasks × shots × seeds."""

    name: Name
    title: str
    extends: Name | None = Field(
        None, description="suite beside this one whose fields hold where this one gives none"
    )
    note: str = Field("", description="what a reader of the leaderboard must know first")
    publish: bool = Field(True, description="whether leaderboard.md shows the suite")
    upgrades: tuple[tuple[Name, ...], ...] = Field(
        min_length=1, description="each a source backbone followed by its targets"
    )
    tasks: tuple[str, ...] = Field(min_length=1)
    variants: tuple[str, ...] = ()
    shots: tuple[PositiveInt, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    training: TrainingCard = Field(default_factory=lambda: TrainingCard.model_validate({}))
    methods: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings of a method that differ from its recipe"
    )

    @model_validator(mode="after")
    def _upgrades_have_targets(self) -> SuiteCard:
        for upgrade in self.upgrades:
            if len(upgrade) < 2:
                raise ValueError(f"upgrade [{', '.join(upgrade)}] lacks a target backbone")
            if len(set(upgrade)) != len(upgrade):
                raise ValueError(f"upgrade [{', '.join(upgrade)}] names a backbone twice")
        return self
