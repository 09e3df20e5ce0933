"""Translates an image processor's settings to open_clip's, where they mean the same transform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compatbench.errors import BackboneError

FILE = "preprocessor_config.json"
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class _Inexact(Exception):
    """The processor does something that open_clip's transform does not do exactly."""


def read_preprocessing(folder: Path, name: str) -> dict[str, Any]:
    """open_clip's settings for the image processor in a model's folder.

    Raises:
        BackboneError: there are none, or they ask for what open_clip's transform does not do.
    """
    path = folder / FILE
    try:
        return _translate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackboneError(
            f"backbone '{name}': {path} does not say how an image becomes a tensor: {error}",
            f"fetch the model's own {FILE}",
        ) from None
    except _Inexact as error:
        raise BackboneError(
            f"backbone '{name}': {path} asks for what cannot be done exactly: {error}",
            "use a model whose images are resized to its own size",
        ) from None


def _translate(values: dict[str, Any]) -> dict[str, Any]:
    size, squash = _size(values["size"])
    if values.get("do_center_crop", False):
        crop, _ = _size(values.get("crop_size", size))
        if crop != size:
            raise _Inexact(f"images of {size} are cropped to {crop}")
    elif not squash:
        raise _Inexact("images keep their shape")
    if not values.get("do_resize", True):
        raise _Inexact("images keep their size")
    resample = values.get("resample", 3)
    if resample not in _INTERPOLATIONS:
        raise _Inexact(f"interpolation {resample}")
    # A pixel p of 0 to 255 becomes (p * factor - offset - mean) / std.
    scale = 255 * values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 255
    offset = 1.0 if values.get("rescale_offset", False) else 0.0
    mean, std = values["image_mean"], values["image_std"]
    if not values.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    return {
        "size": size,
        "mode": "RGB",
        "mean": tuple((value + offset) / scale for value in mean),
        "std": tuple(value / scale for value in std),
        "interpolation": _INTERPOLATIONS[resample],
        "resize_mode": "squash" if squash else "shortest",
        "fill_color": 0,
    }


def _size(value: Any) -> tuple[tuple[int, int], bool]:
    """Height and width, and whether both are given, so that images may change their shape."""
    if isinstance(value, int):
        return (value, value), False
    if "shortest_edge" in value:
        return (value["shortest_edge"], value["shortest_edge"]), False
    return (value["height"], value["width"]), True
