"""The schema of suite cards: a matrix of upgrades × tasks × shots × seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from compatbench.data.cards.names import BackboneName, ConfigName, Name
from compatbench.data.cards.yaml_file import CardModel
from compatbench.data.shots import Seed, Shots

COPIED = "copied"
"""The transfer that attaches a module untouched; the headline of the benchmark."""

UpgradePath = tuple[BackboneName, ...]  # a source, followed by its targets


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
    """A matrix: upgrades × tasks × shots × seeds.

    In YAML, ``upgrades`` is a list of paths, or a mapping from the titles of groups to such
    lists; then means over upgrades are taken within a group, never across.
    """

    name: Name
    title: str
    extends: Name | None = Field(
        None,
        description="suite in the same folder, or built-in one, whose fields hold where this "
        "one gives none",
    )
    note: str = Field("", description="what a reader of the leaderboard must know first")
    publish: bool | Literal["section"] = Field(
        True,
        description="whether leaderboard.md shows the suite; 'section' shows it under the suite "
        "that it extends: the question that it puts, or its ranking where it puts none",
    )
    upgrades: tuple[UpgradePath, ...] = Field(
        min_length=1, description="each a source backbone followed by its targets"
    )
    groups: dict[str, tuple[UpgradePath, ...]] = Field(
        default_factory=dict, description="upgrades by group; filled in from 'upgrades'"
    )
    tasks: tuple[str, ...] = Field(min_length=1)
    variants: tuple[str, ...] = ()
    shots: tuple[Shots, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    training: TrainingCard = Field(default_factory=lambda: TrainingCard.model_validate({}))
    plugins: tuple[Path, ...] = Field(
        (),
        description="method files whose code is run, relative to the suite's file; their "
        "methods can be named in 'methods' and 'compare'",
    )
    compare: tuple[str, ...] = Field(
        ("all",), description="the methods and named configs that '--methods all' means here"
    )
    transfers: tuple[str, ...] = Field(
        (COPIED,), min_length=1, description="how modules reach the targets, unless asked for"
    )
    retrained: bool = Field(
        False,
        description="whether modules are also fitted on every target, at the same shots and "
        "seeds: how much of that does the old module keep?",
    )
    methods: dict[ConfigName, dict[str, Any]] = Field(
        default_factory=dict,
        description="settings of a method that differ from its recipe; with 'method', a config "
        "of that method under a name of its own",
    )

    @model_validator(mode="before")
    @classmethod
    def _flatten_groups(cls, values: Any) -> Any:
        upgrades = values.get("upgrades") if isinstance(values, dict) else None
        if not isinstance(upgrades, dict):
            return values
        if not all(isinstance(paths, (list, tuple)) for paths in upgrades.values()):
            raise ValueError("upgrades: a group is a title with a list of upgrades")
        flat = [path for paths in upgrades.values() for path in paths]
        titles = {str(title): paths for title, paths in upgrades.items()}
        return values | {"upgrades": flat, "groups": titles}

    @model_validator(mode="after")
    def _check_upgrades(self) -> SuiteCard:
        for upgrade in self.upgrades:
            if len(upgrade) < 2:
                raise ValueError(f"upgrade [{', '.join(upgrade)}] has no target backbone")
            if len(set(upgrade)) != len(upgrade):
                raise ValueError(f"upgrade [{', '.join(upgrade)}] names a backbone twice")
        group_of: dict[tuple[str, str], str] = {}
        for title, paths in self.groups.items():
            for source, target in ((path[0], target) for path in paths for target in path[1:]):
                if (other := group_of.setdefault((source, target), title)) != title:
                    raise ValueError(
                        f"upgrade {source} → {target} is in two groups: '{other}' and '{title}'"
                    )
        return self

    @model_validator(mode="after")
    def _check_configs(self) -> SuiteCard:
        for name, settings in self.methods.items():
            if "method" in settings and not isinstance(settings["method"], str):
                raise ValueError(f"methods.{name}.method must be the name of a method")
            if "+" in name and "method" not in settings:
                raise ValueError(f"methods.{name} needs 'method', the method that it sets")
        if self.publish == "section" and self.extends is None:
            raise ValueError("a suite with 'publish: section' must say which suite it extends")
        return self

    def base_method(self, name: str) -> str:
        """The method that a name means in this suite: itself, or that of the config."""
        return self.methods.get(name, {}).get("method", name)

    @property
    def configs(self) -> tuple[str, ...]:
        """The named configs of methods, in the order of the file."""
        return tuple(name for name, settings in self.methods.items() if "method" in settings)
