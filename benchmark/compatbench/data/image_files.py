"""A source whose images are files below one folder."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload

from PIL import Image

from compatbench.data.decoding import read_image
from compatbench.data.images import SPLITS, FileMissing, Sample
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import sha256_json


class ImageFiles:
    """Images that lie in files; a sample's id is the path below ``base``, with slashes.

    Nothing is opened before an image is asked for.
    """

    def __init__(self, base: Path, samples: Mapping[str, Sequence[Sample]]) -> None:
        self.base = base
        self.samples: Mapping[str, Sequence[Sample]] = {
            split: samples.get(split, ()) for split in SPLITS
        }
        self._sizes: dict[str, int] = {}

    def path(self, sample: Sample) -> Path:
        """Where the sample's image lies."""
        return self.base / sample.id

    def fingerprint(self, samples: Sequence[Sample]) -> str:
        """Hash of the images' relative paths and sizes in bytes, and of the code that decodes.

        Sizes take one look at the folder's entry of each file and none into the file, so
        that 50,000 images take a second; an image that was replaced by one of exactly as
        many bytes is not noticed. Where the dataset lies does not count.

        Raises:
            CompatbenchError: a file is missing.
        """
        return fingerprint_files((sample.id, self._size(sample)) for sample in samples)

    def image(self, sample: Sample) -> Image.Image:
        """The image, RGB.

        Raises:
            CompatbenchError: it is missing, damaged or no image.
        """
        return read_image(self.path(sample))

    def first_missing(self) -> Path | None:
        """The first file of the splits that is not there."""
        for samples in self.samples.values():
            if isinstance(samples, FolderListing):
                continue  # it lists what is there
            for sample in samples:
                if not self.path(sample).is_file():
                    return self.path(sample)
        return None

    def _size(self, sample: Sample) -> int:
        size = self._sizes.get(sample.id)
        if size is None:
            path = self.path(sample)
            try:
                size = os.stat(path).st_size
            except FileNotFoundError:
                raise FileMissing(f"image {path} is missing; fetch it again", path) from None
            except OSError as error:
                raise CompatbenchError(f"image {path} cannot be read: {error.strerror}") from None
            self._sizes[sample.id] = size
        return size


def fingerprint_files(files: Iterator[tuple[str, int]]) -> str:
    """One hash for images of these names and sizes, and for the code that decodes them."""
    return sha256_json([list(files), ENGINE_VERSION])


class FolderListing(Sequence[Sample]):
    """The files of many class folders as samples, which are made as they are asked for.

    ImageNet's 1.28 million training images take a tenth of the memory that so many samples
    would.

    Args:
        folders: for each class folder its path, its label, and its files' names in order.
    """

    def __init__(self, folders: Sequence[tuple[str, int, Sequence[str]]]) -> None:
        self._folders = folders
        self._ends = list(accumulate(len(names) for _, _, names in folders))
        self.label_counts = Counter({label: len(names) for _, label, names in folders if names})

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Sample]:
        for folder, label, names in self._folders:
            for name in names:
                yield Sample(f"{folder}/{name}", label)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        at = bisect_right(self._ends, index)
        folder, label, names = self._folders[at]
        return Sample(f"{folder}/{names[index - self._ends[at]]}", label)
