"""FGVC-Aircraft's own text files (arXiv:1306.5151), which CoOp reads as they are."""

from __future__ import annotations

from pathlib import Path

from compatbench.data.cards.sources import FgvcSource
from compatbench.data.classes import Classes
from compatbench.data.image_files import ImageFiles
from compatbench.data.images import SPLITS, FileMissing, Sample
from compatbench.errors import CompatbenchError


def read_fgvc(folder: Path, card: FgvcSource, classes: Classes) -> ImageFiles:
    """The images of ``images_variant_<split>.txt``; labels are the lines of ``variants.txt``.

    Raises:
        CompatbenchError: a file is missing or breaks its format, or the variants are not
            the card's classes.
    """
    variants = [name for name in _read_lines(folder / "variants.txt") if name]
    classes.check_names(variants, folder / "variants.txt")
    labels = {name: label for label, name in enumerate(variants)}
    samples = {}
    for split in SPLITS:
        path = folder / f"images_variant_{split}.txt"
        samples[split] = parse_images(_read_lines(path), labels, path)
    base = folder / card.images
    if not base.is_dir():
        raise FileMissing(f"{base} is missing; the images of {folder} lie there", base)
    return ImageFiles(base, samples)


def parse_images(lines: list[str], labels: dict[str, int], path: Path) -> list[Sample]:
    """Parses lines of an image's number and its variant, such as ``1025794 707-320``.

    Raises:
        CompatbenchError: another line, or a variant that is not known.
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


def _read_lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except FileNotFoundError:
        raise FileMissing(f"{path} is missing; it is part of the dataset's archive", path) from None
    except (OSError, ValueError) as error:
        raise CompatbenchError(f"{path} cannot be read: {error}") from None
