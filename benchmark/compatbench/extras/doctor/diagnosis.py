"""The diagnosis of a machine: what a suite needs, what of it is here, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch

from compatbench.backbone import load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.load import WEIGHTS_FOLDER, is_offline
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import suite_cards, suite_test_sets, task_cards, whole_name
from compatbench.data.dataset_folders import VARIABLE
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import TaskReport, inspect_task, load_task
from compatbench.engine.missing import suite_backbones
from compatbench.extras.doctor.backbone_report import BackboneReport, inspect_backbone
from compatbench.extras.doctor.published_zero_shot import Comparison, compare_zero_shot
from compatbench.files.processes import count_cores
from compatbench.files.sizes import format_bytes

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers")


@dataclass
class Diagnosis:
    """The state of datasets, backbones and the machine."""

    suite: str | None  # that was requested, if one was
    tasks: list[TaskReport] = field(default_factory=list)
    backbones: list[BackboneReport] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)  # facts for people, by subject
    comparisons: list[Comparison] = field(default_factory=list)  # if they were requested

    @property
    def unusable(self) -> list[TaskReport | BackboneReport]:
        """The tasks and backbones that are missing or wrong."""
        return [part for part in (*self.tasks, *self.backbones) if part.state != "found"]

    @property
    def downloads(self) -> dict[str, int]:
        """The bytes to download for ``images`` and ``weights``, as far as sizes are known."""
        return {
            "images": sum(task.download for task in self.tasks),
            "weights": sum(backbone.download for backbone in self.backbones),
        }

    @property
    def disagreeing(self) -> list[Comparison]:
        """Measurements that a published figure contradicts."""
        return [each for each in self.comparisons if each.verdict == "disagrees"]

    @property
    def ready(self) -> bool:
        """True if everything is here, and no published figure disagrees."""
        return not self.unusable and not self.disagreeing

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each task and backbone: ``kind``, ``name``, ``state``, ``message``, ``fix``."""
        rows = [{"kind": "task", **vars(task)} for task in self.tasks]
        rows += [{"kind": "backbone", **vars(backbone)} for backbone in self.backbones]
        return pd.DataFrame(rows, columns=["kind", "name", "state", "message", "fix"])


def diagnose(
    suite: str | None = None,
    tasks: str | Sequence[str] = (),
    backbones: Sequence[str] = (),
    *,
    out: Path | str = ".",
    verify: bool = False,
    deep: bool = False,
    device: str = "auto",
    progress: Callable[[str], object] = lambda _: None,
) -> Diagnosis:
    """Find out whether a suite can run on this machine. Fetch nothing.

    Args:
        suite: look at all that a suite needs: its name or YAML file; by default ``mini``, if
            neither tasks nor backbones are given.
        tasks: look at the images of these, too: names, globs, comma lists.
        backbones: look at these, too: names of cards, ``MODEL/TAG``, or files; comma lists.
        out: the folder that ``run`` would write to; the room on its disk is measured.
        verify: also measure zero-shot accuracy for every pair of a task and a backbone that are
            here, and compare it with published figures.
        deep: also decode every image, in as many threads as there are cores.
        device: where to measure, with ``verify``.
        progress: called with the name of each part before it is looked at.

    Returns:
        ``ready``; a row for each task and backbone with its state and the fix (``frame``);
        facts of the machine; and the comparisons with published figures.

    Raises:
        CompatbenchError: an unknown suite or task, a broken card, or an image that cannot be
            read.
    """
    if suite is None and not tasks and not backbones:
        suite = "mini"
    test_sets = task_cards.select_names(tasks) if tasks else []
    models = list(backbones)
    card = None
    if suite is not None:
        card = suite_cards.read(suite)
        test_sets += map(whole_name, suite_test_sets(card))
        models += suite_backbones(card)
    place = resolve_device(device) if verify else "cpu"
    diagnosis = Diagnosis(suite, machine=_describe_machine(Path(out)))
    for name in dict.fromkeys(test_sets):
        progress(name)
        diagnosis.tasks.append(inspect_task(name, deep))
    for name in dict.fromkeys(models):
        progress(name)
        diagnosis.backbones.append(inspect_backbone(name, card))
    if verify:
        _compare_with_published(diagnosis, place, progress)
    return diagnosis


def _compare_with_published(
    diagnosis: Diagnosis, device: str, progress: Callable[[str], object]
) -> None:
    """Measure zero-shot accuracy for every task and backbone that are here; add comparisons."""
    names = [task.name for task in diagnosis.tasks if task.state == "found"]
    for report in diagnosis.backbones:
        if report.state != "found":
            continue
        backbone = load_backbone(report.name, device)
        for name in names:
            progress(f"{name} on {report.name}")
            cache = FeatureCache(default_cache_folder())
            diagnosis.comparisons += compare_zero_shot(backbone, load_task(name), cache)


def _describe_machine(out: Path) -> dict[str, str]:
    """Return versions, devices, folders and the room on their disks, in words."""
    devices = [f"cpu ({count_cores()} cores)"]
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i} ({facts.name}, {format_bytes(facts.total_memory)})")
    if torch.backends.mps.is_available():
        devices.append("mps")
    cache = default_cache_folder()
    network = "used by 'run' for weights, never by 'store doctor'"
    if is_offline():
        network = "not used"
    machine = {"python": platform.python_version()}
    for package in PACKAGES:
        machine[package] = _show_version(package)
    return machine | {
        "devices": ", ".join(devices),
        "runs": f"{out / 'runs'} ({_show_room(out)} free)",
        "cache": f"{cache} ({_show_room(cache)} free)",
        "data": os.environ.get(VARIABLE) or f"{VARIABLE} is not set",
        "weights": os.environ.get(WEIGHTS_FOLDER) or f"{WEIGHTS_FOLDER} is not set",
        "network": network,
    }


def _show_version(package: str) -> str:
    """Return the version of a package, or that it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        if package == "transformers":
            return "not installed (for 'hf:' backbones)"
        return "not installed"


def _show_room(folder: Path) -> str:
    """Return the room on the disk that a folder is on, or will be on."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return format_bytes(shutil.disk_usage(existing).free)
