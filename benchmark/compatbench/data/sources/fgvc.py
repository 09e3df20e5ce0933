"""FGVC-Aircraft's own text files (arXiv:1306.5151), which CoOp reads unchanged."""

from __future__ import annotations

from pathlib import Path

from compatbench.data.cards.task import FgvcSource
from compatbench.data.classes import Classes
from compatbench.data.images import SPLITS, ImageFiles, Sample, read_lines
from compatbench.errors import CompatbenchError

FIX = "it is part of the dataset's archive"


def read_fgvc(folder: Path, card: FgvcSource, classes: Classes) -> ImageFiles:
    """The images of ``images_variant_<split>.txt``; labels are the lines of ``variants.txt``.

    Raises:
        CompatbenchError: a file is missing or breaks its format, or the variants are not
            the card's classes.
    """
    path = folder / "variants.txt"
    variants = [name for name in read_lines(path, fix=FIX) if name]
    classes.check_names(variants, path)
    labels = {name: label for label, name in enumerate(variants)}
    paths = {split: folder / f"images_variant_{split}.txt" for split in SPLITS}
    return ImageFiles(
        folder / card.images,
        {
            split: parse_images(read_lines(path, fix=FIX), labels, path)
            for split, path in paths.items()
        },
    )


def parse_images(lines: list[str], labels: dict[str, int], path: Path) -> list[Sample]:
    """Parses lines of an image's number and its variant, such as ``1025794 707-320``.

    Raises:
        CompatbenchError: another line, or an unknown variant.
    """
    samples = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        image, _, variant = line.partition(" ")
        variant = variant.strip()
        if not (image.isascii() and image.isdigit()) or not variant:
            raise CompatbenchError(
                f"{path}:{number}: a line holds an image's number and its variant, not {line!r}"
            )
        if variant not in labels:
            raise CompatbenchError(f"{path}:{number}: {variant!r} is not in variants.txt")
        samples.append(Sample(f"{image}.jpg", labels[variant]))
    return samples
