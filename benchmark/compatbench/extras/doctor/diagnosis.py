"""What of a suite is on this machine, what is missing, and what the machine has.

Zero-shot accuracy is measured and compared with the figures of ``results/published/`` whose sources
used prompts and test images of their own: here they are measured with those prompts.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.load import WEIGHTS_FOLDER, is_offline, planning
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import (
    BackboneCard,
    backbone_cards,
    suite_cards,
    task_cards,
    whole_name,
)
from compatbench.data.dataset_folders import VARIABLE
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task, TaskReport, inspect_task, load_task, task_labels
from compatbench.engine.missing import suite_backbones, suite_test_sets
from compatbench.extras.doctor.backbone_report import BackboneReport, inspect_backbone
from compatbench.files.processes import count_cores
from compatbench.files.sizes import format_bytes
from compatbench.results.published import read_published

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers")
# Points by which the two first sources differ at most, on equal metrics, over 13 models; and
# never less than 0.3, for another library of image operations.
TOLERANCES = {"stanford_cars": 0.31, "oxford_pets": 0.41, "fgvc_aircraft": 0.3, "imagenet": 0.3}
TOLERANCES |= {f"imagenet_{variant}": 0.3 for variant in ("v2", "sketch", "a", "r")}
# The table on CoOp's splits is a loose check, within a point: it decides nothing.
LOOSE = "OSTB"
Verdict = Literal["agrees", "disagrees", "differs", "not compared"]

# The templates of the figures, but for ImageNet's, which open_clip has.
TEMPLATES = {
    "stanford_cars": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of my {}.",
        "i love my {}!",
        "a photo of my dirty {}.",
        "a photo of my clean {}.",
        "a photo of my new {}.",
        "a photo of my old {}.",
    ),
    "oxford_pets": ("a photo of a {}, a type of pet.",),
    "fgvc_aircraft": (
        "a photo of a {}, a type of aircraft.",
        "a photo of the {}, a type of aircraft.",
    ),
}


@dataclass(frozen=True)
class Comparison:
    """Zero-shot accuracy in percent, and a published figure beside it if there is one."""

    task: str
    backbone: str
    measured: float
    reason: str  # why the figure may be compared, or why not
    metric: Literal["top1", "recall"] = "top1"
    published: float | None = None
    source: str = ""
    within: float = 0.0  # points that a measurement may be away from the figure
    # A figure that decides nothing ``differs`` and never ``disagrees``.
    verdict: Verdict = "not compared"


def find_figures(card: BackboneCard, task: str) -> list[dict[str, Any]]:
    """The published figures of a backbone's release on a task, by whatever name it is asked for."""
    figures = read_published()
    on_task = (figures["protocol"] == "own prompts") & (figures["test_set"] == task)
    releases = {name: backbone_cards.read(name) for name in {*figures.loc[on_task, "backbone"]}}
    own = [n for n, one in releases.items() if (one.config, one.tag) == (card.config, card.tag)]
    rows = figures.loc[on_task & figures["backbone"].isin(own)].to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def why_not_comparable(
    figure: Mapping[str, Any], card: BackboneCard, images: int, classes: int
) -> str:
    """Why a figure may not be compared with a measurement here; empty if it may."""
    if card.path is not None:
        return "the weights are a file of your own, which may not be the release"
    if figure["classes"] != classes:
        return f"it is over {figure['classes']} classes, here are {classes}"
    if figure["images"] != images:
        return f"it is over {figure['images']:,} test images of another split, here are {images:,}"
    if figure["source"] != LOOSE and figure["test_set"] not in TOLERANCES:
        return "it is over other test images than CoOp's"
    return ""


def judge(figure: Mapping[str, Any], measured: float, within: float) -> Verdict:
    """What a measurement says of a figure that may be compared with it."""
    if abs(measured - figure["accuracy"]) <= within:
        return "agrees"
    return "differs" if figure["source"] == LOOSE else "disagrees"


def published_prompts(task: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts that the published figures were made with: for each template, one of each class.

    Empty for a task of which no figure on the same images was published with its prompts.
    """
    if task == "imagenet" or task.startswith("imagenet_"):
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        # open_clip has them as functions of the class name.
        return [tuple(map(template, names)) for template in OPENAI_IMAGENET_TEMPLATES]
    if task == "stanford_cars":
        # The dataset itself has "Acura TL Sedan 2012" for "2012 Acura TL Sedan".
        names = [re.sub(r"^(\d{4}) (.*)$", r"\2 \1", name) for name in names]
    templates = TEMPLATES.get(task, ())
    return [tuple(template.replace("{}", name) for name in names) for template in templates]


@torch.no_grad()
def compare_zero_shot(backbone: Backbone, task: Task, cache: FeatureCache) -> list[Comparison]:
    """Measures zero-shot on a task's test images, once for every published figure.

    A figure is measured with its own prompts where they are known, and otherwise with the task's
    first template, which is also used where nothing was published.
    """
    samples, card, names = task.split("test"), backbone.card, task.labels.names
    features = F.normalize(cache.features(backbone, task, samples), dim=-1)
    targets = torch.tensor([sample.label for sample in samples], device=features.device)

    def measure(weights: Tensor, metric: str) -> float:
        """Share of the images that are right, or mean of the classes' shares, in percent."""
        right = ((features @ weights.T).argmax(-1) == targets).double()
        if metric == "recall":
            right = torch.stack([right[targets == label].mean() for label in targets.unique()])
        return 100 * float(right.mean())

    single, figures = backbone.zero_shot(task.labels), find_figures(card, task.name)
    if not figures:
        reason = "nothing is published for this pair"
        return [Comparison(task.name, backbone.name, measure(single, "top1"), reason)]
    # The prompts of a loose figure are not known.
    decided = any(figure["source"] != LOOSE for figure in figures)
    texts = published_prompts(task.name, names) if decided else []
    # Mean of normalised features, normalised.
    each = [F.normalize(backbone.text_features(filled), dim=-1) for filled in texts]
    ensemble = F.normalize(reduce(torch.add, each), dim=-1) if each else single
    compared = []
    for figure in figures:
        why, weights = "same test images, prompts and metric", ensemble
        within = TOLERANCES.get(task.name, 1.0)
        if figure["source"] == LOOSE:
            why = "same split by its size; prompts not stated: a loose check that decides nothing"
            weights, within = single, 1.0
        measured = measure(weights, figure["metric"])
        why_not = why_not_comparable(figure, card, len(samples), len(names))
        about = (figure["metric"], figure["accuracy"], figure["source"], within)
        verdict = "not compared" if why_not else judge(figure, measured, within)
        where = (task.name, backbone.name, measured, why_not or why)
        compared.append(Comparison(*where, *about, verdict))
    return compared


@dataclass
class Diagnosis:
    """The state of datasets, backbones and the machine."""

    suite: str | None  # what was asked for, if one was
    tasks: list[TaskReport] = field(default_factory=list)
    backbones: list[BackboneReport] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)  # facts for people, by subject
    comparisons: list[Comparison] = field(default_factory=list)  # if they were asked for

    @property
    def unusable(self) -> list[TaskReport | BackboneReport]:
        """What is missing or wrong."""
        return [one for one in (*self.tasks, *self.backbones) if one.state != "found"]

    @property
    def disagreeing(self) -> list[Comparison]:
        """Measurements that a published figure contradicts."""
        return [one for one in self.comparisons if one.verdict == "disagrees"]

    @property
    def ready(self) -> bool:
        """Whether everything is here, and no published figure disagrees."""
        return not self.unusable and not self.disagreeing

    def to_frame(self) -> pd.DataFrame:
        """A row for each task and backbone: ``kind``, ``name``, ``state``, ``message``, ``fix``."""
        rows = [{"kind": "task", **vars(one)} for one in self.tasks]
        rows += [{"kind": "backbone", **vars(one)} for one in self.backbones]
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
    """Finds out whether a suite can run on this machine; nothing is fetched.

    Args:
        suite: look at all that a suite needs: its name or YAML file; by default ``mini``, if
            neither tasks nor backbones are given.
        tasks: look at the images of these, too: names or globs.
        backbones: look at these, too: names of cards, ``MODEL/TAG``, or files.
        out: the folder that ``run`` would write to; the room on its disk is measured.
        verify: also measure zero-shot accuracy for every pair of a task and a backbone that are
            here, and compare it with published figures.
        deep: also decode every image, in as many threads as there are cores.
        device: where to measure, with ``verify``.
        progress: called with the name of each part before it is looked at.

    Returns:
        ``ready``; a row for each task and backbone with its state and the fix (``to_frame()``);
        facts of the machine; and the comparisons with published figures.

    Raises:
        CompatbenchError: an unknown suite or task, a broken card, or an image that cannot be
            read.
    """
    if suite is None and not tasks and not backbones:
        suite = "mini"
    test_sets = task_cards.select_names(tasks) if tasks else []
    models = list(backbones)
    if suite is not None:
        test_sets += map(whole_name, suite_test_sets(suite_cards.read(suite)))
        models += suite_backbones(suite_cards.read(suite))
    place = resolve_device(device) if verify else "cpu"
    found = Diagnosis(suite)
    with planning():
        for name in dict.fromkeys(test_sets):
            progress(name)
            found.tasks.append(inspect_task(name, deep))
        for name in dict.fromkeys(models):
            progress(name)
            found.backbones.append(inspect_backbone(name))
        cache = FeatureCache(default_cache_folder())
        for model in (one.name for one in found.backbones if verify and one.state == "found"):
            backbone = load_backbone(model, place)
            here = [one.name for one in found.tasks if one.state == "found"]
            for name in (name for name in here if len(task_labels(name))):
                progress(f"{name} on {model}")
                found.comparisons += compare_zero_shot(backbone, load_task(name), cache)
        found.machine = describe_machine(Path(out))
    return found


def describe_machine(out: Path) -> dict[str, str]:
    """Versions, devices, folders and the room on their disks, in words."""
    devices = [f"cpu ({count_cores()} cores)"]
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i} ({facts.name}, {format_bytes(facts.total_memory)})")
    devices += ["mps"] * torch.backends.mps.is_available()
    cache = default_cache_folder()
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "devices": ", ".join(devices),
        "runs": f"{out / 'runs'} ({_free(out)} free)",
        "cache": f"{cache} ({_free(cache)} free)",
        "data": os.environ.get(VARIABLE) or f"{VARIABLE} is not set",
        "weights": os.environ.get(WEIGHTS_FOLDER) or f"{WEIGHTS_FOLDER} is not set",
        "network": "not used" if is_offline() else "used by 'run' for weights, never by 'doctor'",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed" + (" (for 'hf:' backbones)" if package == "transformers" else "")


def _free(folder: Path) -> str:
    """Room on the disk that a folder is on, or will be on."""
    here = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return format_bytes(shutil.disk_usage(here).free)
