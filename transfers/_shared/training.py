"""What transfers that train a module on the target share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from compatbench.errors import NotTransferable
from compatbench.method import Backbone, Classifier, FeatureSet, FewShotData, Method, Module
from compatbench.method.trained import Batch, TrainedMethod

# The share of the method's own epochs, 1 / so many, that a module which is not new is trained for.
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
    """``module`` after a tenth of its method's epochs on ``target``, in a copy.

    Optimiser, rate and batches are the method's; the optimiser's state starts anew, without
    warm-up. With ``unlabelled``, batches are of ``data.unlabelled``.

    Raises:
        NotTransferable: the module does not fit the target as it is.
    """
    images = data.unlabelled if unlabelled else data.train
    assert images is not None
    epochs = -(-method.plan_steps(data.shots, len(images))[0] // PART)
    recipe = method.config.recipe.model_copy(update={"warmup_epochs": 0, "epochs": epochs})
    start = module.detach()
    return method.train(start, loss, target, data, rng, recipe=recipe, unlabelled=unlabelled)


def trainable(method: Method) -> TrainedMethod:
    """The method, if gradient descent finds its modules; NotTransferable if it does not."""
    if not isinstance(method, TrainedMethod):
        raise NotTransferable("the method's modules are computed, not trained by steps")
    return method


@torch.no_grad()
def accuracy(classifier: Classifier, images: FeatureSet) -> float:
    """The share of images that are classified right, 0 to 1; 0 if there is none."""
    if len(images) == 0:
        return 0.0
    logits = classifier(images.inputs(torch.arange(len(images), device=images.targets.device)))
    return float((logits.argmax(-1) == images.targets).double().mean())


def best_module(
    modules: Iterable[Module], method: Method, target: Backbone, data: FewShotData
) -> Module:
    """The module that classifies the validation images best; of equal ones the first."""

    def right(module: Module) -> float:
        with torch.no_grad():
            return accuracy(method.attach(module, target, data.labels), data.val)

    return max(modules, key=right)
