"""Images that are files below one folder: listed, fingerprinted and opened."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload

from PIL import Image

from compatbench.data.images import SPLITS, FileMissing, Sample, decode_image, read_bytes
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json

FETCH = "fetch it again"


class ImageFiles:
    """Images that are files; a sample's id is the path below ``base``, with slashes.

    Nothing is opened before an image is asked for.

    Raises:
        FileMissing: there is no folder ``base``.
    """

    def __init__(self, base: Path, samples: Mapping[str, Sequence[Sample]]) -> None:
        if not base.is_dir():
            raise FileMissing(f"{base} is missing; it is the folder of the images", base)
        self.base = base
        self.samples: Mapping[str, Sequence[Sample]] = {
            split: samples.get(split, ()) for split in SPLITS
        }
        self._sizes: dict[str, int] = {}

    def fingerprint(self, samples: Sequence[Sample]) -> str:
        """Hash of the images' relative paths and sizes in bytes, and of the code that decodes.

        The files are not read, so that 50,000 images take a second; an image that was
        replaced by one of exactly as many bytes is not noticed. The dataset's place does
        not count.

        Raises:
            CompatbenchError: a file is missing.
        """
        return fingerprint_files((sample.id, self._size(sample)) for sample in samples)

    def image(self, sample: Sample) -> Image.Image:
        """The image, RGB.

        Raises:
            CompatbenchError: it is missing, damaged or no image.
        """
        path = self.base / sample.id
        return decode_image(read_bytes(path, "image", FETCH), path)

    def first_missing(self) -> Path | None:
        """The first file of the splits that does not exist."""
        for samples in self.samples.values():
            # A listing of folders has only files that exist.
            for sample in () if isinstance(samples, FolderListing) else samples:
                if not (path := self.base / sample.id).is_file():
                    return path
        return None

    def _size(self, sample: Sample) -> int:
        if sample.id not in self._sizes:
            path = self.base / sample.id
            try:
                self._sizes[sample.id] = os.stat(path).st_size
            except FileNotFoundError:
                raise FileMissing(f"image {path} is missing; {FETCH}", path) from None
            except OSError as error:
                raise CompatbenchError(f"image {path} cannot be read: {error.strerror}") from None
        return self._sizes[sample.id]


def fingerprint_files(files: Iterable[tuple[str, int]]) -> str:
    """One hash for images of these names and sizes, and for the code that decodes them."""
    return sha256_json([list(files), ENGINE_VERSION])


class FolderListing(Sequence[Sample]):
    """The files of many class folders as samples, which are made on demand.

    ImageNet's 1.28 million training images take a tenth of the memory of as many samples.

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
        places = range(len(self))[index]  # raises IndexError
        if isinstance(places, range):
            return [self[i] for i in places]
        at = bisect_right(self._ends, places)
        folder, label, names = self._folders[at]
        return Sample(f"{folder}/{names[places - self._ends[at]]}", label)
