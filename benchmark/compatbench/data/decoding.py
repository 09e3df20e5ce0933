"""Image files become RGB images; a damaged one is told by its name."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from compatbench.data.images import FileMissing
from compatbench.errors import CompatbenchError


def decode_image(content: bytes, where: str | Path) -> Image.Image:
    """The image that a file's bytes hold, RGB; as stored, for turning it is not CoOp's way.

    Args:
        where: the file's name, for messages.

    Raises:
        CompatbenchError: the bytes are damaged, cut short, or hold no image.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except Exception as error:  # the decoders raise whatever a damaged file leads them to
        what = "is empty" if not content else f"cannot be decoded ({_reason(error)})"
        raise CompatbenchError(f"image {where} {what}; fetch it again") from None


def read_image(path: Path) -> Image.Image:
    """The image in a file, RGB.

    Raises:
        CompatbenchError: the file is missing, unreadable, damaged, or no image.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileMissing(f"image {path} is missing; fetch it again", path) from None
    except OSError as error:
        raise CompatbenchError(f"image {path} cannot be read: {error.strerror}") from None
    return decode_image(content, path)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "no image format that is known"
    return (str(error) or type(error).__name__).splitlines()[0]
