"""From a card's source to its images, whatever the layout of the dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compatbench.data.cards import TaskCard
from compatbench.data.cards.task import (
    ClassFoldersSource,
    CoopSplitSource,
    DrawingsSource,
    FgvcSource,
    WebdatasetSource,
)
from compatbench.data.images import ImageSource
from compatbench.data.labels import Classes
from compatbench.data.roots import find_dataset
from compatbench.data.sources.drawings import Drawings
from compatbench.data.sources.layouts import read_class_folders, read_coop, read_fgvc
from compatbench.data.sources.webdataset import read_webdataset
from compatbench.files.project_folders import tasks_folder

READERS: dict[type, Callable[..., Any]] = {
    ClassFoldersSource: read_class_folders,
    CoopSplitSource: read_coop,
    FgvcSource: read_fgvc,
    WebdatasetSource: read_webdataset,
}


def open_source(card: TaskCard, classes: Classes) -> ImageSource:
    """The images of a task; none is opened yet.

    Raises:
        DataMissing: no data root is set, or the dataset's folder does not exist.
        CompatbenchError: the folder exists, and something in it is wrong.
    """
    source = card.source
    if isinstance(source, DrawingsSource):
        return Drawings(tasks_folder() / source.split)
    return READERS[type(source)](find_dataset(card.name, source.folder), source, classes)
