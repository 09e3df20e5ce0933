"""The schema of suite cards: a matrix of upgrades × tasks × shots × seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from compatbench.data.cards.names import BackboneName, ConfigName, Name
from compatbench.data.cards.yaml_file import CardModel
from compatbench.data.shots import Seed, Shots

COPIED = "copied"
"""The transfer that attaches a module untouched; the headline of the benchmark."""

AT_LEAST_ONE = Field(min_length=1)
UpgradePath = tuple[BackboneName, ...]  # a source, followed by its targets


class TrainingCard(CardModel):
    """What a suite decides for every trained method."""

    views: PositiveInt = 1  # cached augmentations per image, cycled by epoch; 1: the plain view
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the area that a random crop keeps
    flip: bool = True
    # What the frozen towers compute in; modules are float32 always.
    precision: Literal["fp32", "bf16"] = "fp32"
    max_steps: PositiveInt | None = None  # of a fit; its epochs then get fewer and shorter


class SuiteCard(CardModel):
    """A matrix: upgrades × tasks × shots × seeds.

    In YAML, ``upgrades`` is a list of paths, or a mapping from the titles of groups to such
    lists; then means over upgrades are taken within a group, never across.
    """

    name: Name
    title: str
    extends: Name | None = None  # the suite whose fields hold where this one gives none
    note: str = ""  # what a reader of the leaderboard must know first
    # Whether leaderboard.md shows the suite; 'section' shows it under the suite that it extends:
    # the question that it puts, or its ranking where it puts none.
    publish: bool | Literal["section"] = True
    upgrades: Annotated[tuple[UpgradePath, ...], AT_LEAST_ONE]
    groups: dict[str, tuple[UpgradePath, ...]] = {}  # upgrades by group, from 'upgrades'
    tasks: Annotated[tuple[str, ...], AT_LEAST_ONE]
    variants: tuple[str, ...] = ()
    shots: Annotated[tuple[Shots, ...], AT_LEAST_ONE]
    seeds: Annotated[tuple[Seed, ...], AT_LEAST_ONE]
    training: TrainingCard = TrainingCard()
    plugins: tuple[Path, ...] = ()  # method files, relative to the suite's; their code is run
    compare: tuple[str, ...] = ("all",)  # what '--methods all' means here
    transfers: Annotated[tuple[str, ...], AT_LEAST_ONE] = (COPIED,)  # unless asked for others
    # Whether modules are also fitted on every target: how much of that does the old one keep?
    retrained: bool = False
    # Settings that differ from a method's recipe; with 'method', a config of that method under
    # a name of its own.
    methods: dict[ConfigName, dict[str, Any]] = {}

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
    def _check(self) -> SuiteCard:
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
