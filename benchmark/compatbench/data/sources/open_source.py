"""From a card's source to its images."""

from __future__ import annotations

import os
from pathlib import Path

from compatbench.data.cards.sources import (
    ClassFoldersSource,
    CoopSplitSource,
    DiskSource,
    DrawingsSource,
    FgvcSource,
    TorchvisionSource,
)
from compatbench.data.cards.task import TaskCard
from compatbench.data.classes import Classes
from compatbench.data.images import DataMissing, ImageSource
from compatbench.data.roots import VARIABLE, dataset_folder
from compatbench.data.sources import drawings
from compatbench.data.sources.class_folders import read_class_folders
from compatbench.data.sources.coop import read_coop
from compatbench.data.sources.fgvc import read_fgvc
from compatbench.data.sources.torchvision_sets import read_torchvision
from compatbench.data.sources.webdataset import WebdatasetShards
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import tasks_folder


def open_source(card: TaskCard, classes: Classes) -> ImageSource:
    """The images of a task; none is opened yet.

    Raises:
        DataMissing: no data root is set, or the dataset's folder is not there.
        CompatbenchError: the folder is there, and something in it is wrong.
    """
    if isinstance(card.source, DrawingsSource):
        return drawings.DrawingsSource(tasks_folder(), card.source.split)
    return _open(find_folder(card.name, card.source), card.source, classes)


def find_folder(task: str, source: DiskSource) -> Path:
    """The folder of a dataset.

    Raises:
        DataMissing: no data root is set, or there is no such folder.
        CompatbenchError: it cannot be read.
    """
    folder = dataset_folder(task, source.folder)
    if folder is None:
        raise DataMissing(
            f"task '{task}': no folder of datasets is set; give --data-root, or set {VARIABLE}"
        )
    if not folder.is_dir():
        raise DataMissing(
            f"task '{task}': there is no folder {folder}; put the dataset there, or give its "
            f"place: --data-root {task}=FOLDER"
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        raise CompatbenchError(f"task '{task}': folder {folder} cannot be read; mend its rights")
    return folder


def _open(folder: Path, source: DiskSource, classes: Classes) -> ImageSource:
    if isinstance(source, CoopSplitSource):
        return read_coop(folder, source, classes)
    if isinstance(source, ClassFoldersSource):
        return read_class_folders(folder, source, classes)
    if isinstance(source, FgvcSource):
        return read_fgvc(folder, source, classes)
    if isinstance(source, TorchvisionSource):
        return read_torchvision(folder, source, classes)
    return WebdatasetShards(folder, source, classes)
