"""TIMO: images weight the texts of a class, and texts are training rows beside images.

The texts of a class are weighted by their similarity to its mean image feature. In turn, the most
similar texts join the images as training rows of a Gaussian classifier.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.validation import search_number

from ._shared.cache import build_cache
from ._shared.texts import Templates, class_texts
from .gda import discriminant


class TIMO(Method):
    """z = α f̂ ŵᵀ + (f̂ Wᵀ + b), with ŵ guided by images and W, b by texts.

    Li et al., *Text and Image Are Mutually Beneficial: Enhancing Training-Free Few-Shot
    Classification with CLIP*, section 3. The texts of class c, t̂_cj, are its templates and
    descriptions, as many as the class with the fewest has. With v_c the mean of the class's
    image features, m_cj = ⟨v_c, t̂_cj⟩.

    * Image-guided text: w_c = Σ_j softmax_j(γ m_c / ‖m_c‖) t̂_cj.
    * Text-guided image: W and b are GDA's, of the training views and of β texts per class, the
      best matching first (and from the first again), each multiplied by its m_cj.

    γ = 50, and β is the number of texts. α classifies the few-shot validation set best; without
    validation images it is CLIP's own scale. Of the texts the module carries only their
    weights, so on another model ŵ is made from that model's features. A class without shots has
    equal weights and no text among the rows.
    """

    card = MethodCard(
        name="timo",
        title="TIMO",
        paper="arXiv:2412.11375",
        inserts="classifier",
        summary="images weight the texts, and texts train a Gaussian classifier",
        needs={"descriptions"},
    )

    class Config(Method.Config):
        templates: Templates = "first"
        gamma: PositiveFloat = 50.0
        beta: PositiveInt | None = None
        alpha: NonNegativeFloat = 100.0
        alphas: tuple[PositiveFloat, ...] = tuple(10.0**i for i in range(-4, 5))

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        texts = self.texts(backbone, data.labels)
        targets = data.train.targets
        cache = build_cache(data, None)
        means = F.normalize(cache["values"].T @ cache["keys"], dim=-1)
        matches = (texts @ means[..., None]).squeeze(-1)
        weights = (self.config.gamma * F.normalize(matches, dim=-1)).softmax(-1)

        scores, order = matches.sort(dim=-1, descending=True, stable=True)
        sorted_texts = scores[..., None] * texts.take_along_dim(order[..., None], dim=1)
        # Twice, so that β may be larger than the number of texts.
        count = self.config.beta or texts.shape[1]
        best = sorted_texts.repeat(1, 2, 1)[:, :count]
        seen = targets.unique()
        views = F.normalize(data.train.views, dim=-1)
        rows = torch.cat([best[seen].flatten(0, 1), views.flatten(0, 1)])
        text_owners = seen.repeat_interleave(best.shape[1])
        owners = torch.cat([text_owners, targets.repeat(len(views))])
        weight, bias = discriminant(rows, owners, len(data.labels))

        alpha = torch.tensor(self.config.alpha, device=backbone.device)
        module = Module({"weight": weight, "bias": bias, "text_weights": weights}, {"alpha": alpha})
        return search_number(self, module, "alpha", self.config.alphas, backbone, data)

    def texts(self, backbone: Backbone, labels: Labels) -> Tensor:
        """Return normalised features of equally many texts of each class, ``[C, P, e]``."""
        texts = class_texts(backbone, labels, self.config.templates)
        fewest = min(len(class_features) for class_features in texts)
        return torch.stack([class_features[:fewest] for class_features in texts])

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        weight = require_shape(module, "weight", backbone.embed_dim, "image features of size")
        bias = require_shape(module, "bias", len(labels), "a number of classes of")
        texts = self.texts(backbone, labels)
        weights = require_shape(module, "text_weights", texts.shape[1], "a number of texts of")
        guided = F.normalize((weights[..., None] * texts).sum(1), dim=-1)
        alpha = module["alpha"]

        def classify(features: Tensor) -> Tensor:
            features = F.normalize(features, dim=-1)
            return alpha * features @ guided.T + features @ weight.T + bias

        return classify
