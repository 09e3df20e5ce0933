"""GraphAdapter: graphs over the text and image features of all classes refine the class weights.

One graph joins the text features of all classes, another their mean image features. A class weight
is the text feature, mixed with the outputs of learned graph convolutions over both graphs.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Recipe, TrainedMethod

from ._shared.cache import last_views
from ._shared.layers import draw_linear
from ._shared.texts import Templates, mean_texts

# Every fourth class makes a graph.
GROUPS = 4


class GraphAdapter(TrainedMethod):
    """w_c = β t_c + (1 − β) (α g_c(T) + (1 − α) g_c(V)), g a graph convolution.

    Li et al., *GraphAdapter: Tuning Vision-Language Models With Dual Knowledge Graph*, section
    3.2. g_c(X) joins t_c to the nodes X: the text features T of all classes, or their mean
    image features V over all training views, neither normalised. As in the authors' code, every
    fourth class makes a graph, and g is the mean over the four:

        g_c(X) = mean_k tanh(Σ_j Â_0j x_j Θ + b_c),  Â = D^−½ (max(cos, 0) + I) D^−½,

    with t_c as node 0 and Θ ``[e, e]``, b ``[C, e]`` learned for either kind of node. α = β =
    0.7. A class without shots has no image node.
    """

    card = MethodCard(
        name="graph_adapter",
        title="GraphAdapter",
        paper="arXiv:2309.13625",
        inserts="classifier",
        summary="graph convolutions over the text and image features of classes",
        zero_shot_at={"*_weight": 0.0, "*_bias": 0.0},
        excused={"class-order": "nodes are grouped by the numbers of their classes"},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(optimizer="adam", lr=1e-3, epochs=100, batch_size=256)
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.7
        beta: Annotated[float, Field(ge=0, le=1)] = 0.7
        templates: Templates = "first"
        # The image nodes are made from this many of the last training views, by default from all.
        node_views: PositiveInt | None = None

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        size = backbone.embed_dim
        targets = data.train.targets
        views = last_views(data, self.config.node_views)
        trained = {}
        for kind in ("text", "image"):
            trained[f"{kind}_weight"] = draw_linear((size, size), size, rng).to(views)
            trained[f"{kind}_bias"] = torch.zeros(len(data.labels), size).to(views)
        shots = targets.bincount(minlength=len(data.labels))
        sums = torch.zeros(len(data.labels), size).to(views).index_add(0, targets, views.mean(0))
        return Module(trained, {"image_nodes": sums / shots.clamp(min=1)[:, None]})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        images = require_shape(module, "image_nodes", backbone.embed_dim, "image features of size")
        require_shape(module, "image_nodes", len(labels), "a number of classes of", dim=0)
        alpha = self.config.alpha
        beta = self.config.beta
        text = mean_texts(backbone, labels, self.config.templates)
        from_text = convolve(text, text, module["text_weight"], module["text_bias"])
        from_image = convolve(text, images, module["image_weight"], module["image_bias"])
        gathered = alpha * from_text + (1 - alpha) * from_image
        refined = beta * text + (1 - beta) * gathered
        return CosineClassifier(refined, backbone.logit_scale)


def convolve(text: Tensor, nodes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return g ``[C, e]``: the convolution at each class's text, averaged over groups of nodes.

    Only row 0 of Â is needed. A node's degree is its degree within its group plus its edge to
    t_c. So one matrix serves all classes.
    """
    outputs = []
    for k in range(min(GROUPS, len(nodes))):
        group = nodes[k::GROUPS]
        outputs.append(torch.tanh(_gather(text, group) @ weight + bias))
    return torch.stack(outputs).mean(0)


def _gather(text: Tensor, group: Tensor) -> Tensor:
    """Return Σ_j Â_0j x_j for every class, ``[C, e]``."""
    unit_text = F.normalize(text, dim=-1)
    unit_group = F.normalize(group, dim=-1)
    edges = (unit_text @ unit_group.T).clamp(min=0)
    # Node 0 has an edge of 1 to itself twice: max(cos, 0) and I.
    own_degree = 2 + edges.sum(-1, keepdim=True)
    degrees = 1 + (unit_group @ unit_group.T).clamp(min=0).sum(-1) + edges
    return 2 / own_degree * text + edges * (own_degree * degrees).rsqrt() @ group
