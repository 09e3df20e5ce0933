"""Methods that adapt zero-shot to the images of a test set, and what several of them use."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import Backbone, Classifier, Labels, Method, Module

from .texts import Templates, zero_shot


class StreamMethod(Method):
    """Adapts zero-shot's logits to a stream of test images.

    ``adapt`` takes the logits that it starts from, so it can also start from those of a module.
    """

    class Config(Method.Config):
        templates: Templates = "first"

    config: Config

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        text = zero_shot(backbone, labels, self.config.templates)

        def classify(stream: Tensor) -> Tensor:
            features = F.normalize(stream, dim=-1)
            start = backbone.logit_scale * features @ text.T
            return self.adapt(module, features, start, text)

        return classify

    @abstractmethod
    def adapt(self, module: Module, features: Tensor, start: Tensor, text: Tensor) -> Tensor:
        """Return the adapted logits of a stream, ``[Q, C]``.

        Args:
            features: normalised image features in the order of the stream, ``[Q, e]``.
            start: the logits before the adaptation, ``[Q, C]``.
            text: normalised text features of the classes, ``[C, e]``.
        """


class Cache:
    """A cache of the images with the lowest entropies for each guessed class.

    Args:
        text: text features ``[C, e]``, for the number of classes and the size of keys.
        capacity: the number of images for each guessed class.
    """

    def __init__(self, text: Tensor, capacity: int) -> None:
        classes, size = text.shape
        self.keys = text.new_zeros(classes, capacity, size)
        self.values = text.new_zeros(classes, capacity, classes)  # zero in empty places
        self.entropies = [[math.inf] * capacity for _ in range(classes)]

    def offer(self, guess: int, entropy: float, key: Tensor, value: Tensor) -> bool:
        """Keep an image if a place is empty or if its entropy is lower than the highest.

        Return True if the image is kept.

        Args:
            guess: the class that zero-shot gives the image.
            entropy: H.
            key: the image's feature, ``[e]``.
            value: y, ``[C]``.
        """
        # An empty place has an infinite entropy.
        entropies = self.entropies[guess]
        place = entropies.index(max(entropies))
        if entropy >= entropies[place]:
            return False
        entropies[place] = entropy
        self.keys[guess, place] = key
        self.values[guess, place] = value.to(self.values)
        return True

    def answer(self, feature: Tensor, beta: float) -> Tensor:
        """Return Σ exp(−β (1 − ⟨f̂, g⟩)) y over all kept images, ``[C]``, of a feature ``[e]``."""
        affinity = torch.exp(-beta * (1 - self.keys.flatten(0, 1) @ feature))
        return affinity @ self.values.flatten(0, 1)


def find_neighbours(x: Tensor, count: int) -> Tensor:
    """Return A + Aᵀ ``[Q, Q]``, sparse, of normalised rows ``[Q, e]``.

    Args:
        count: the number k of nearest others of each image.
    """
    size = len(x)
    all_values = []
    all_columns = []
    # In blocks of rows, because all cosines at once may not fit into memory.
    for rows in torch.arange(size, device=x.device).split(1024):
        cosines = x[rows] @ x.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf  # an image is not its own neighbour
        block_values, block_columns = cosines.topk(min(count, size - 1))
        all_values.append(block_values)
        all_columns.append(block_columns)
    values = torch.cat(all_values)
    columns = torch.cat(all_columns)
    rows = torch.arange(size, device=x.device)[:, None].expand_as(columns)
    places = torch.stack([rows.flatten(), columns.flatten()])
    nearest = torch.sparse_coo_tensor(places, values.flatten(), (size, size), check_invariants=True)
    return (nearest + nearest.T).coalesce()


def estimate_spread(x: Tensor, z: Tensor, mean: Tensor) -> Tensor:
    """Return σ ``[e]``: the mean over images of Σ_c z_ic (x_i − μ_c)², dimension by dimension."""
    squares = x.square() - 2 * x * (z @ mean) + z @ mean.square()
    return squares.mean(0).clamp(min=1e-9)  # a single image has no spread
