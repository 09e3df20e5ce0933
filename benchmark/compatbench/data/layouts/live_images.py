"""Images that are in memory, with their labels: lists, arrays, datasets of torch and of the Hub."""

from __future__ import annotations

import io
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from compatbench.data.images.source import FORMATS, MOST_PIXELS, MOST_SIDE, SPLITS
from compatbench.data.layouts.listing import SPLIT_NAMES
from compatbench.errors import CompatbenchError
from compatbench.messages import count, first_line

# Usual columns of a dataset of the Hub, where the kinds of its columns do not show them.
_IMAGES = ("image", "img", "images")
_LABELS = ("label", "labels", "class")
_CHANNELS = (1, 3, 4)

Pair = tuple[Any, Any]  # an image and its label


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels, which are read one after the other.

    Attributes:
        where: the argument that they come from, for errors.
        split: empty if it is not known.
        length: the number of images; None for a stream.
        names: names of the classes that the data have; None if they have none.
        read: yields the pairs.
    """

    where: str
    split: str
    length: int | None
    names: tuple[str, ...] | None
    read: Callable[[], Iterator[Pair]]


def open_sets(images: Any, labels: Any) -> list[ImageSet]:
    """Return the images as one set, or a set for each split of a mapping.

    Raises:
        CompatbenchError: they are of another kind, or their number is not that of the labels.
    """
    if not isinstance(images, Mapping):
        return [_open_set(images, labels, "images", "")]
    sets = []
    for key, part in images.items():
        where = f"images[{key!r}]"
        split = SPLIT_NAMES.get(str(key).lower())
        if split is None:
            raise CompatbenchError(f"{where} is not a split; name it one of {', '.join(SPLITS)}")
        part_labels = None
        if labels is not None:
            if not isinstance(labels, Mapping) or key not in labels:
                raise CompatbenchError(f"labels has no {key!r}; give the labels by split, too")
            part_labels = labels[key]
        sets.append(_open_set(part, part_labels, where, split))
    return sets


def _open_set(images: Any, labels: Any, where: str, split: str) -> ImageSet:
    if isinstance(images, str | Path):
        fix = "give images; for those in files: cb.new_task(FOLDER)"
        raise CompatbenchError(f"{where} is a path, {str(images)!r}; {fix}")
    if hasattr(images, "column_names") and hasattr(images, "features"):
        if labels is not None:
            raise CompatbenchError(f"{where} has a column of labels; leave labels out")
        return _open_hub_set(images, where, split)
    if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
        kind = type(images).__name__
        fix = "give a list of images with labels, or a dataset that has a length and an index"
        raise CompatbenchError(f"{where} has the type {kind}, without numbered images; {fix}")
    length = len(images)
    if not length:
        raise CompatbenchError(f"{where} is empty; give images")
    names = getattr(images, "classes", None)
    if labels is None:
        _split_pair(images[0], f"{where}[0]")

        def read() -> Iterator[Pair]:
            for number in range(length):
                yield _split_pair(images[number], f"{where}[{number}]")

    else:
        if not hasattr(labels, "__len__"):
            raise CompatbenchError(f"labels is {labels!r}; give a list with one for each image")
        if len(labels) != length:
            raise CompatbenchError(
                f"{where} has {count(length, 'image')} and labels has {len(labels):,}; give one "
                "label for each image"
            )
        if names is None and all(isinstance(label, str) for label in labels):
            names = sorted(set(labels))

        def read() -> Iterator[Pair]:
            yield from zip(images, labels, strict=True)

    return ImageSet(where, split, length, _as_tuple(names), read)


def _as_tuple(names: Any) -> tuple[str, ...] | None:
    return tuple(names) if names else None


def _split_pair(item: Any, where: str) -> Pair:
    """Return the image and the label of an item of a dataset."""
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    kind = type(item).__name__
    raise CompatbenchError(
        f"{where} has the type {kind}, and is no pair of image and label; give the labels: "
        "cb.task(images, labels, names)"
    )


def _open_hub_set(dataset: Any, where: str, split: str) -> ImageSet:
    """Return the images of a dataset of the Hugging Face library ``datasets``."""
    image = _find_column(dataset, "Image", _IMAGES)
    label = _find_column(dataset, "ClassLabel", _LABELS)
    if image is None or label is None:
        lacking = "images" if image is None else "labels"
        usual = _IMAGES[0] if image is None else _LABELS[0]
        raise CompatbenchError(
            f"{where} has no column of {lacking}, only {', '.join(dataset.column_names)}; rename "
            f"it: dataset.rename_column(COLUMN, '{usual}')"
        )
    names = getattr(dataset.features[label], "names", None)
    length = len(dataset) if hasattr(dataset, "__len__") else None
    if names is None and length:
        words = dataset[label]
        if all(isinstance(word, str) for word in words):
            names = sorted(set(words))

    def read() -> Iterator[Pair]:
        for row in dataset:
            yield row[image], row[label]

    return ImageSet(where, split, length, _as_tuple(names), read)


def _find_column(dataset: Any, kind: str, usual: Sequence[str]) -> str | None:
    """Return the only column of a kind, or else the one with a usual name."""
    of_kind = []
    for name, feature in (dataset.features or {}).items():
        if type(feature).__name__ == kind:
            of_kind.append(name)
    if len(of_kind) == 1:
        return of_kind[0]
    for name in usual:
        if name in dataset.column_names:
            return name
    return None


def choose_names(names: Sequence[str] | None, sets: Sequence[ImageSet]) -> tuple[str, ...]:
    """Return the names of the classes, the given ones or those of the data.

    Raises:
        CompatbenchError: there are none, fewer than two, or two are alike.
    """
    if names is None:
        found = {each.names for each in sets}
        if None in found:
            raise CompatbenchError(
                "names: the data have no names of classes; give them in the order of the labels: "
                "names=['cat', 'dog']"
            )
        if len(found) > 1:
            raise CompatbenchError("names: the splits name their classes differently; give names")
        names = found.pop()
    if names is None or isinstance(names, str):
        raise CompatbenchError("names: give a list of names, such as ['cat', 'dog']")
    seen: dict[str, str] = {}
    stripped = []
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise CompatbenchError(f"names[{number}] is {name!r}; give the name of a class")
        name = name.strip()
        # A text tower reads capitals as small letters.
        if name.casefold() in seen:
            both = f"'{seen[name.casefold()]}' and '{name}'"
            raise CompatbenchError(f"names: {both} are the same name; put them together or rename")
        seen[name.casefold()] = name
        stripped.append(name)
    if len(stripped) < 2:
        raise CompatbenchError(f"names: a task needs two classes, and this is {len(stripped)}")
    return tuple(stripped)


def number_of(label: Any, names: Sequence[str], where: str) -> int:
    """Return the number of a class, given by its number or name.

    Raises:
        CompatbenchError: there is no such class.
    """
    if isinstance(label, str):
        if label.strip() not in names:
            raise CompatbenchError(f"{where}: label {label!r} is none of the names")
        return names.index(label.strip())
    try:
        number = operator.index(label)
    except TypeError:
        problem = f"label {label!r} is neither the number nor the name of a class"
        raise CompatbenchError(f"{where}: {problem}") from None
    if not 0 <= number < len(names):
        raise CompatbenchError(
            f"{where}: label {number} is out of range; the {len(names)} classes are 0 to "
            f"{len(names) - 1}"
        )
    return number


def as_rgb(value: Any, where: str) -> Image.Image:
    """Return an image as RGB, turned as its EXIF data say, as images in files are.

    Args:
        value: a PIL image, an array or tensor of bytes, or what ``datasets`` has for an image that
            it does not decode.

    Raises:
        CompatbenchError: it is none of these.
    """
    if isinstance(value, dict) and value.get("bytes"):
        try:
            value = Image.open(io.BytesIO(value["bytes"]), formats=FORMATS)
        except Exception as error:  # on a damaged file, decoders raise all kinds of errors
            raise _undecodable(where, error) from None
    if hasattr(value, "detach"):  # a tensor of torch
        value = _from_tensor(value, where)
    if isinstance(value, np.ndarray):
        value = _from_array(value, where)
    if not isinstance(value, Image.Image):
        kind = type(value).__name__
        fix = "give PIL images or arrays; for images in files: cb.new_task(FOLDER)"
        raise CompatbenchError(f"{where} has the type {kind}, not that of an image; {fix}")
    pixels = value.width * value.height
    if not 0 < pixels <= MOST_PIXELS or max(value.size) > MOST_SIDE:
        raise CompatbenchError(
            f"{where} has {value.width:,} × {value.height:,} pixels; give 1 to {MOST_PIXELS:,}, "
            f"and at most {MOST_SIDE:,} in a row or column"
        )
    try:
        value.load()
        # Pillow would cut values above 255: a scan of 16 bits would be mostly white.
        if value.mode[0] in "IF":
            largest: Any = value.getextrema()[1]
            if largest > 255:
                raise CompatbenchError(f"{where} has more than 8 bits a pixel; give it with 8")
        return ImageOps.exif_transpose(value).convert("RGB")
    except CompatbenchError:
        raise
    except Exception as error:  # Pillow decodes a file when its pixels are needed
        raise _undecodable(where, error) from None


def _undecodable(where: str, error: Exception) -> CompatbenchError:
    reason = first_line(error)
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "unknown image format"
    return CompatbenchError(f"{where} cannot be decoded ({reason}); leave it out")


def _from_tensor(tensor: Any, where: str) -> np.ndarray:
    """Return a tensor ``[channels, H, W]`` as an array ``[H, W, channels]``."""
    array = tensor.detach().cpu().numpy()
    if array.dtype != np.uint8:
        raise CompatbenchError(
            f"{where} is a tensor of {array.dtype}; give the dataset without its transform, so "
            "that it has PIL images"
        )
    if array.ndim == 3 and array.shape[0] in _CHANNELS:
        array = np.moveaxis(array, 0, -1)
    return array


def _from_array(array: np.ndarray, where: str) -> Image.Image:
    if array.dtype != np.uint8:
        fix = "give uint8, from 0 to 255"
        raise CompatbenchError(f"{where} is an array of {array.dtype}; {fix}")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[-1] not in _CHANNELS):
        shape = " × ".join(map(str, array.shape)) or "one number"
        raise CompatbenchError(f"{where} is an array of {shape}; give height × width × 3")
    if not array.size:
        raise CompatbenchError(f"{where} is empty; leave it out")
    return Image.fromarray(np.ascontiguousarray(array))
