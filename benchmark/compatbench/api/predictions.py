"""``predict``: what a module will gain on a new model, before anything is labelled there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compatbench.method import Module
    from compatbench.studies.predict import Prediction


def predict(
    module: Module | str | Path,
    backbone: str,
    *,
    images: str | Path | None = None,
    methods: str | None = None,
    device: str = "auto",
) -> Prediction:
    """What a module will gain over a new model's zero-shot, before anything is labelled there.

    It was fitted on miniature models.

    Args:
        module, methods: as for ``evaluate``.
        backbone: the new model.
        images: a folder of images of the module's task, at any depth, without labels; with less
            than a hundred there is a warning. Without it, the models and the place of the module
            are all that is known.

    Returns:
        A prediction: ``ways`` has the gain with a 90 % interval, copied and through ``words``
        where that serves the method, and the reason where it cannot be attached; ``advice`` says
        what to do; ``as_dict()`` has it all.

    Raises:
        CompatbenchError: as ``evaluate``; or a folder without images.
    """
    from compatbench.sharing.hub import local_module
    from compatbench.studies.predict import predict_module

    folder = None if images is None else Path(images)
    return predict_module(local_module(module), backbone, folder, methods, device)
