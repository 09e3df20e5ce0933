"""The cards in ``tasks/``: what tasks, backbones and suites there are."""

from __future__ import annotations

from compatbench.data.cards.backbone import BackboneCard
from compatbench.data.cards.catalog import (
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
from compatbench.data.cards.task import TaskCard

__all__ = [
    "BackboneCard",
    "BackboneName",
    "ConfigName",
    "Name",
    "SuiteCard",
    "TaskCard",
    "TrainingCard",
    "backbone_cards",
    "select_names",
    "suite_cards",
    "suite_tasks",
    "suite_variants",
    "task_cards",
    "unknown_name",
]
