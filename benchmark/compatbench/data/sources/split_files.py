"""Datasets with a list of their images: CoOp's split files, FGVC-Aircraft's, torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, NonNegativeInt

from compatbench.data.cards.task import CoopSplitSource, FgvcSource, TorchvisionSource
from compatbench.data.images import (
    SPLITS,
    DataMissing,
    ImageFiles,
    Sample,
    WrongClasses,
    read_json,
    read_lines,
)
from compatbench.data.labels import Classes
from compatbench.errors import CompatbenchError


def is_inside(image: str) -> bool:
    """Whether a path with slashes stays below the folder that it is relative to."""
    if not image or "\0" in image or "\\" in image or not image.isprintable():
        return False
    parts = PurePosixPath(image).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and ":" not in parts[0]


def _check_inside(image: str) -> str:
    if not is_inside(image):
        raise ValueError(f"path {image!r} leaves the dataset's folder")
    return image


Rows = list[tuple[Annotated[str, AfterValidator(_check_inside)], NonNegativeInt, str]]


class SplitFile(BaseModel):
    """CoOp's (arXiv:2109.01134): rows of an image's path, its label and the class's name."""

    model_config = ConfigDict(strict=True)

    train: Rows
    val: Rows
    test: Rows


def read_coop(folder: Path, card: CoopSplitSource, classes: Classes) -> ImageFiles:
    """The images that a split file lists, in its order.

    Raises:
        CompatbenchError: the file is missing or breaks its format, or its classes are not
            the card's.
    """
    samples, names = read_split(folder / card.split)
    classes.check(names, folder / card.split)
    return ImageFiles(folder / card.images, samples)


def read_split(path: Path) -> tuple[dict[str, list[Sample]], list[str]]:
    """The samples of CoOp's split file by split, and the class names in label order.

    Raises:
        CompatbenchError: the file is missing or breaks its format.
    """
    rows: dict[str, Rows] = dict(read_json(path, SplitFile))
    names: dict[int, str] = {}
    for _, label, name in (row for split in SPLITS for row in rows[split]):
        if names.setdefault(label, name) != name:
            raise WrongClasses(f"{path}: label {label} is both {names[label]!r} and {name!r}")
    if not names:
        raise CompatbenchError(f"{path} lists no image")
    for label in range(len(names)):
        if label not in names:
            raise WrongClasses(f"{path}: no image has label {label}, but some have {max(names)}")
    samples = {split: [Sample(image, label) for image, label, _ in rows[split]] for split in SPLITS}
    return samples, [names[label] for label in range(len(names))]


def read_fgvc(folder: Path, card: FgvcSource, classes: Classes) -> ImageFiles:
    """FGVC-Aircraft (arXiv:1306.5151), whose text files CoOp reads unchanged.

    Raises:
        CompatbenchError: a file is missing or breaks its format, or the variants are not
            the card's classes.
    """
    variants = read_lines(folder / "variants.txt")
    classes.check(variants, folder / "variants.txt")
    samples = {
        split: read_variants(folder / f"images_variant_{split}.txt", variants) for split in SPLITS
    }
    return ImageFiles(folder / card.images, samples)


def read_variants(path: Path, variants: Sequence[str]) -> list[Sample]:
    """The images of lines such as ``1025794 707-320``: an image's number and its variant.

    Raises:
        CompatbenchError: another line, or an unknown variant.
    """
    labels = {name: label for label, name in enumerate(variants)}
    samples = []
    for line in read_lines(path):
        image, _, variant = line.partition(" ")
        if not (image.isascii() and image.isdigit()):
            raise CompatbenchError(
                f"{path}: a line holds an image's number and its variant, not {line!r}"
            )
        if (variant := variant.strip()) not in labels:
            raise CompatbenchError(f"{path}: {line!r}: {variant!r} is not in variants.txt")
        samples.append(Sample(f"{image}.jpg", labels[variant]))
    return samples


# torchvision's name of each split. FGVC's splits are CoOp's; of the others only the test set is.
TORCHVISION_SPLITS = {
    "FGVCAircraft": {"train": "train", "val": "val", "test": "test"},
    "OxfordIIITPet": {"train": "trainval", "test": "test"},
    "StanfordCars": {"train": "train", "test": "test"},
}


def read_torchvision(root: Path, card: TorchvisionSource, classes: Classes) -> ImageFiles:
    """The images of a dataset as torchvision has downloaded it, in its order.

    Raises:
        CompatbenchError: it is missing or damaged, or its classes are not the card's.
    """
    import torchvision.datasets

    samples: dict[str, list[Sample]] = {}
    for split, name in TORCHVISION_SPLITS[card.dataset].items():
        try:
            dataset = getattr(torchvision.datasets, card.dataset)(root, split=name)
        except RuntimeError:
            raise DataMissing(
                f"{root} does not hold torchvision's {card.dataset}; its folder is the one given "
                "to torchvision as root"
            ) from None
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise CompatbenchError(
                f"torchvision cannot read {card.dataset} in {root}: {error}"
            ) from None
        classes.check(dataset.classes, root, exact=False)
        samples[split] = [
            Sample(Path(path).relative_to(root).as_posix(), label)
            for path, label in _list_images(dataset)
        ]
    return ImageFiles(root, samples)


def _list_images(dataset: Any) -> list[tuple[str, int]]:
    """Paths and labels; torchvision's public way to them would decode every image."""
    if hasattr(dataset, "_samples"):
        return list(dataset._samples)
    paths = dataset._images if hasattr(dataset, "_images") else dataset._image_files
    return list(zip(paths, dataset._labels, strict=True))
