"""Datasets as torchvision has downloaded them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compatbench.data.cards.task import TorchvisionSource
from compatbench.data.classes import Classes
from compatbench.data.images import DataMissing, ImageFiles, Sample
from compatbench.errors import CompatbenchError

# torchvision's name of each split. FGVC's splits are CoOp's; of the others only the test set is.
SPLITS_OF = {
    "FGVCAircraft": {"train": "train", "val": "val", "test": "test"},
    "OxfordIIITPet": {"train": "trainval", "test": "test"},
    "StanfordCars": {"train": "train", "test": "test"},
}


def read_torchvision(root: Path, card: TorchvisionSource, classes: Classes) -> ImageFiles:
    """The images of a torchvision dataset, in its order.

    Raises:
        CompatbenchError: it is missing or damaged, or its classes are not the card's.
    """
    import torchvision.datasets

    build = getattr(torchvision.datasets, card.dataset)
    samples: dict[str, list[Sample]] = {}
    for split, name in SPLITS_OF[card.dataset].items():
        try:
            dataset = build(root, split=name)
        except RuntimeError:
            raise DataMissing(
                f"{root} does not hold torchvision's {card.dataset}; its folder is the one given "
                "to torchvision as root"
            ) from None
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise CompatbenchError(
                f"torchvision cannot read {card.dataset} in {root}: {error}"
            ) from None
        classes.check_names(dataset.classes, root, exact=False)
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
