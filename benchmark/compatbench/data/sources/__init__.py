"""From a card's source to its images: one module for each layout of a dataset."""

from __future__ import annotations

from compatbench.data.cards import TaskCard
from compatbench.data.cards.task import (
    ClassFoldersSource,
    CoopSplitSource,
    DrawingsSource,
    FgvcSource,
    TorchvisionSource,
)
from compatbench.data.classes import Classes
from compatbench.data.images import ImageSource
from compatbench.data.roots import find_folder
from compatbench.data.sources.class_folders import read_class_folders
from compatbench.data.sources.coop import read_coop
from compatbench.data.sources.drawings import Drawings
from compatbench.data.sources.fgvc import read_fgvc
from compatbench.data.sources.torchvision_sets import read_torchvision
from compatbench.data.sources.webdataset import WebdatasetShards
from compatbench.files.project_folders import tasks_folder


def open_source(card: TaskCard, classes: Classes) -> ImageSource:
    """The images of a task; none is opened yet.

    Raises:
        DataMissing: no data root is set, or the dataset's folder does not exist.
        CompatbenchError: the folder exists, and something in it is wrong.
    """
    source = card.source
    if isinstance(source, DrawingsSource):
        return Drawings(tasks_folder(), source.split)
    folder = find_folder(card.name, source)
    if isinstance(source, CoopSplitSource):
        return read_coop(folder, source, classes)
    if isinstance(source, ClassFoldersSource):
        return read_class_folders(folder, source, classes)
    if isinstance(source, FgvcSource):
        return read_fgvc(folder, source, classes)
    if isinstance(source, TorchvisionSource):
        return read_torchvision(folder, source, classes)
    return WebdatasetShards(folder, source, classes)
