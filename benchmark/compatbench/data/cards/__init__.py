"""The cards in ``tasks/``: what tasks, backbones and suites there are."""

from __future__ import annotations

from compatbench.data.cards.backbone import BackboneCard
from compatbench.data.cards.catalog import (
    Catalog,
    backbone_cards,
    suite_cards,
    suite_tasks,
    suite_variants,
    task_cards,
)
from compatbench.data.cards.names import (
    BackboneName,
    ConfigName,
    Name,
    select_names,
    unknown_name,
)
from compatbench.data.cards.suite import SuiteCard, TrainingCard
from compatbench.data.cards.task import (
    ClassFoldersSource,
    CoopSplitSource,
    DiskSource,
    DrawingsSource,
    FgvcSource,
    TaskCard,
    TorchvisionSource,
    WebdatasetSource,
)
from compatbench.data.cards.yaml_file import CardModel, read_card

__all__ = [
    "BackboneCard",
    "BackboneName",
    "CardModel",
    "Catalog",
    "ClassFoldersSource",
    "ConfigName",
    "CoopSplitSource",
    "DiskSource",
    "DrawingsSource",
    "FgvcSource",
    "Name",
    "SuiteCard",
    "TaskCard",
    "TorchvisionSource",
    "TrainingCard",
    "WebdatasetSource",
    "backbone_cards",
    "read_card",
    "select_names",
    "suite_cards",
    "suite_tasks",
    "suite_variants",
    "task_cards",
    "unknown_name",
]
