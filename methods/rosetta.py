"""Rosetta: a kernel classifier of the shots, translated to another model through words.

Kernel ridge regression on the shots is added to the zero-shot classifier of the current model. The
module also stores the source's features of common words. From these words it finds the rotation
between two models, and reads the new model's image features in the old space.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.backbone.joint_maps import fit_rotation
from compatbench.backbone.words import encode_words, load_words, words_hash
from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    NotTransferable,
    require_shape,
)


class Rosetta(Method):
    """z = s · (f̂ t̂ᵀ + ρ · exp(−β (1 − m(f̂) Gᵀ)) V): zero-shot, and what the shots say.

    A method of this project (docs/findings.md). It adds two experts that are fitted separately:

    * the backbone's own zero-shot classifier t̂;
    * kernel ridge regression on the shots alone. The keys G are their normalised features, K =
      exp(−β (1 − G Gᵀ)) as in Tip-Adapter, and V = γ (K + λI)⁻¹ Y with Y the one-hot labels,
      centred. Tip-Adapter's values are Y itself; here similar shots share their influence.

    γ = w · r · σ(f̂ t̂ᵀ) / σ(K V₁), where σ is the spread over the classes and V₁ are the
    values before γ. r = σ(L) / σ(K V₁) is the share of the second expert that is left when each
    shot is predicted from all others, L_i = y_i − (H Y)_i / H_ii with H = (K + λI)⁻¹. So the
    shots count as far as they predict each other. No validation image is used.

    G is in the source's feature space. The module also holds the source's features A of common
    words, centred, and their mean ā. With B, b̄ those of the target and R the rotation that
    takes A to B best, an image is translated by m(f̂) = (f̂ − b̄) Rᵀ + ā, normalised. ρ is the
    correlation of A R with B, 1 on the source: a bad translation counts less.
    """

    card = MethodCard(
        name="rosetta",
        title="Rosetta",
        paper="compatbench",
        inserts="classifier",
        needs={"words"},
        summary="kernel regression of the shots beside zero-shot, translated through words",
        zero_shot_at={"values": 0.0},
        excused={"other-sizes": "words translate the keys to an embedding space of any size"},
    )

    class Config(Method.Config):
        beta: PositiveFloat = 3.0
        ridge: PositiveFloat = 0.3
        weight: NonNegativeFloat = 2.5
        words: PositiveInt = 2000
        word_list: str = Field(default_factory=words_hash, description="hash of the word list")

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        keys = F.normalize(data.train.plain, dim=-1)
        kernel = self._affinity(keys, keys)
        values, left_out = solve_values(
            kernel, data.train.targets, len(data.labels), self.config.ridge
        )
        # The spread is 0 for shots of only one class, whose values are 0.
        shot_spread = spread(kernel @ values).clamp(min=1e-6)
        text_spread = spread(keys @ backbone.zero_shot(data.labels).T)
        kept_share = self.config.weight * spread(left_out) / shot_spread
        values = values * (kept_share * text_spread / shot_spread)
        words = self._encode(backbone)
        mean = words.mean(0)
        return Module({"values": values}, {"keys": keys, "words": words - mean, "mean": mean})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        if self.config.word_list != words_hash():
            raise NotTransferable("the module was made with another list of words")
        values = require_shape(module, "values", len(labels), "a number of classes of")
        turn = fit_rotation(module["words"], self._encode(backbone))
        correlation = max(1 - turn.residual, 0.0) ** 0.5
        rotation = turn.rotation.to(values)
        target_mean = turn.target_mean.to(values)
        keys = module["keys"]
        mean = module["mean"]
        text = backbone.zero_shot(labels)

        def classify(features: Tensor) -> Tensor:
            features = F.normalize(features, dim=-1)
            turned = F.normalize((features - target_mean) @ rotation.T + mean, dim=-1)
            shots = self._affinity(turned, keys) @ values
            return backbone.logit_scale * (features @ text.T + correlation * shots)

        return classify

    def _affinity(self, features: Tensor, keys: Tensor) -> Tensor:
        """Return exp(−β (1 − f̂ Gᵀ)), ``[n, N]``."""
        return torch.exp(-self.config.beta * (1 - features @ keys.T))

    def _encode(self, backbone: Backbone) -> Tensor:
        """Return normalised features of words, evenly spaced in the list, ``[V, e]``."""
        cached = _ENCODED.setdefault(backbone, {})
        if self.config.words not in cached:
            all_words = load_words()
            count = min(self.config.words, len(all_words))
            chosen = tuple(all_words[i * len(all_words) // count] for i in range(count))
            cached[self.config.words] = encode_words(backbone, chosen)
        return cached[self.config.words]


# Features by backbone and number of words. There are thousands of words, so a backbone encodes
# them once, not for every module.
_ENCODED: WeakKeyDictionary[Backbone, dict[int, Tensor]] = WeakKeyDictionary()


def solve_values(
    kernel: Tensor, targets: Tensor, classes: int, ridge: float
) -> tuple[Tensor, Tensor]:
    """Return (K + λI)⁻¹ Y, and every shot's prediction from all others, both ``[N, C]``.

    Args:
        kernel: K, ``[N, N]``.
        targets: labels, ``[N]``.
        classes: their number C.
        ridge: λ.
    """
    labels = centred_labels(targets, classes)
    identity = torch.eye(len(kernel), dtype=torch.float64, device=kernel.device)
    inverse = torch.linalg.inv(kernel.double() + ridge * identity)
    values = inverse @ labels
    left_out = labels - values / inverse.diagonal()[:, None]
    return values.to(kernel), left_out.to(kernel)


def centred_labels(targets: Tensor, classes: int) -> Tensor:
    """Return centred one-hot labels, ``[N, C]``. The column of a class without shots is 0."""
    labels = F.one_hot(targets, classes).double()
    seen = labels.any(0)
    return (labels - 1 / seen.sum()) * seen


def spread(logits: Tensor) -> Tensor:
    """Return the standard deviation over the classes, averaged over images."""
    return logits.std(-1).mean()
