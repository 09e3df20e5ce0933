"""Parts of transfers that train a module on the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from compatbench.errors import NotTransferable
from compatbench.method import Backbone, Classifier, FeatureSet, FewShotData, Method, Module
from compatbench.method.trained import Batch, TrainedMethod

# An old module is trained further for this part of the method's own epochs: one tenth.
PART = 10


@torch.enable_grad()
def go_on_training(
    method: TrainedMethod,
    module: Module,
    loss: Callable[[Module, Batch], Tensor],
    target: Backbone,
    data: FewShotData,
    rng: torch.Generator,
    unlabelled: bool = False,
) -> Module:
    """Train a copy of a module further on the target, for a tenth of its method's epochs.

    Optimiser, rate and batches are the method's. The optimiser's state starts anew, without
    warm-up.

    Args:
        loss: from the module and a batch to a number.
        unlabelled: draw batches from ``data.unlabelled`` instead of ``data.train``.

    Raises:
        NotTransferable: the module does not fit the target as it is.
    """
    images = data.unlabelled if unlabelled else data.train
    assert images is not None
    all_epochs, _ = method.plan_steps(data.shots, len(images))
    epochs = math.ceil(all_epochs / PART)
    recipe = method.config.recipe.model_copy(update={"warmup_epochs": 0, "epochs": epochs})
    start = module.detach()
    return method.train(start, loss, target, data, rng, recipe=recipe, unlabelled=unlabelled)


def trainable(method: Method) -> TrainedMethod:
    """Return the method as one whose modules gradient descent finds.

    Raises:
        NotTransferable: the method's modules are computed otherwise.
    """
    if not isinstance(method, TrainedMethod):
        raise NotTransferable("the method's modules are computed, not trained by steps")
    return method


@torch.no_grad()
def accuracy(classifier: Classifier, images: FeatureSet) -> float:
    """Return the share of images that are classified correctly, 0 to 1; 0 without images."""
    if len(images) == 0:
        return 0.0
    rows = torch.arange(len(images), device=images.targets.device)
    logits = classifier(images.inputs(rows))
    hits = logits.argmax(-1) == images.targets
    return float(hits.double().mean())


def best_module(
    modules: Iterable[Module], method: Method, target: Backbone, data: FewShotData
) -> Module:
    """Return the module that classifies the validation images best; of equal ones the first."""

    def validate(module: Module) -> float:
        with torch.no_grad():
            classifier = method.attach(module, target, data.labels)
            return accuracy(classifier, data.val)

    return max(modules, key=validate)
