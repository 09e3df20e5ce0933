"""GraphAdapter: text weights mixed with graph convolutions over text and image nodes."""

from __future__ import annotations

import math

import pytest
import torch
from formulas import check_first_step, cosine_logits, cross_entropy
from open_clip_reference import encode_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FeatureSet, FewShotData, Module
from compatbench.methods.graph_adapter import GraphAdapter

EIGHT = Labels(("dog", "cat", "tree", "red apple", "boat", "car", "house", "sun"), ("a {}",), "{}")


def naive_graph(text: Tensor, group: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """One class's node 0 after a convolution over the whole normalised adjacency matrix."""
    nodes = torch.stack([text, *group])
    n = len(nodes)
    adjacency = torch.eye(n).to(nodes)
    for i in range(n):
        for j in range(n):
            lengths = nodes[i].norm() * nodes[j].norm()
            cosine = nodes[i].dot(nodes[j]) / lengths if lengths > 0 else torch.zeros(())
            adjacency[i, j] += max(float(cosine), 0.0)
    degree = torch.diag(adjacency.sum(1) ** -0.5)
    return torch.tanh(degree @ adjacency @ degree @ nodes @ weight + bias)[0]


def naive_weights(
    backbone: Backbone, labels: Labels, module: Module, alpha: float, beta: float
) -> Tensor:
    texts = encode_texts(backbone, [labels.templates[0].format(name) for name in labels.names])
    rows = []
    for c, t in enumerate(texts):
        refined = {}
        for kind, nodes in (("text", texts), ("image", module["image_nodes"])):
            parts = [
                naive_graph(
                    t,
                    [nodes[j] for j in range(k, len(nodes), 4)],
                    module[f"{kind}_weight"],
                    module[f"{kind}_bias"][c],
                )
                for k in range(4)
            ]
            refined[kind] = sum(parts) / 4
        mixed = alpha * refined["text"] + (1 - alpha) * refined["image"]
        rows.append(beta * t + (1 - beta) * mixed)
    return torch.stack(rows)


def random_module(classes: int) -> Module:
    generator = torch.Generator().manual_seed(1)
    shapes = {f"{kind}_weight": (16, 16) for kind in ("text", "image")}
    shapes |= {f"{kind}_bias": (classes, 16) for kind in ("text", "image")}
    trained = {n: torch.randn(s, generator=generator).double() for n, s in shapes.items()}
    nodes = torch.randn(classes, 16, generator=generator).double()
    return Module(trained, {"image_nodes": nodes})


@pytest.mark.parametrize("eight", [True, False])
def test_logits_equal_the_formula(
    backbone64: Backbone, labels: Labels, images64: Tensor, eight: bool
) -> None:
    """Eight classes make four equal graphs, as the authors' code needs; five do not."""
    labels = EIGHT if eight else labels
    module = random_module(len(labels))
    method = GraphAdapter(GraphAdapter.Config(alpha=0.6, beta=0.3))
    logits = method.attach(module, backbone64, labels)(images64)
    weights = naive_weights(backbone64, labels, module, 0.6, 0.3)
    torch.testing.assert_close(
        logits, cosine_logits(backbone64, weights, images64), rtol=1e-8, atol=1e-8
    )


def test_image_nodes_are_class_means_over_all_views(
    clip64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip64, labels, shots=[2, 1, 3, 0, 1], views=3)
    nodes = GraphAdapter().init(clip64, data, torch.Generator())["image_nodes"]
    for c in range(5):
        own = [v[i] for v in data.train.views for i in range(7) if data.train.targets[i] == c]
        expected = sum(own) / len(own) if own else torch.zeros(16).double()
        torch.testing.assert_close(nodes[c], expected)


def test_a_class_without_shots_is_no_node(clip64: Backbone, images64: Tensor) -> None:
    """Classes 0 and 4 share a graph; without an image node, class 4 changes nothing there."""
    module = random_module(8)
    module["image_nodes"][4] = 0
    logits = GraphAdapter().attach(module, clip64, EIGHT)(images64)
    weights = naive_weights(clip64, EIGHT, module, 0.7, 0.7)
    expected = cosine_logits(clip64, weights, images64)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-8)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    """Adam with coupled weight decay: each number moves by lr · g / (|g| + ε)."""
    stored = GraphAdapter().init(clip64, data64, torch.Generator()).stored

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        weights = naive_weights(clip64, data64.labels, Module(parameters, stored), 0.7, 0.7)
        return cross_entropy(cosine_logits(clip64, weights, images), targets)

    def update(x: Tensor, gradient: Tensor) -> Tensor:
        slope = gradient + 5e-4 * x
        return x - 0.1 * slope / (slope.abs() + 0.01)

    recipe = {"warmup_epochs": 0, "lr": 0.1, "eps": 0.01}
    check_first_step(GraphAdapter, clip64, data64, loss, update, recipe=recipe, rtol=1e-6)


def test_initialisation_and_size_at_vit_b_16(b16_sized: Backbone, data: FewShotData) -> None:
    wide = FewShotData(data.labels, 3, *[_widen(s) for s in (data.train, data.val)])
    module = GraphAdapter().init(b16_sized, wide, torch.Generator().manual_seed(0))
    bound = 1 / math.sqrt(512)
    for kind in ("text", "image"):
        assert module[f"{kind}_weight"].shape == (512, 512)
        assert 0.99 * bound < module[f"{kind}_weight"].abs().max() <= bound
        assert not module[f"{kind}_bias"].any()
    assert module.parameters == 2 * (512 * 512 + 5 * 512)


def _widen(features: FeatureSet) -> FeatureSet:
    return FeatureSet(
        features.plain.repeat(1, 32), features.views.repeat(1, 1, 32), features.targets
    )
