"""The training loop, watched through a toy method that records its batches."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.method import Classifier, FewShotData, Labels, MethodCard, Module
from compatbench.method.optim import Recipe, learning_rate
from compatbench.method.trained import Batch, TrainedMethod


class Toy(TrainedMethod):
    """A linear classifier on the features, started from random weights."""

    card = MethodCard("toy", "Toy", "none", "classifier", "a linear classifier")

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(epochs=4, batch_size=4)

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.batches: list[Batch] = []

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        weight = torch.randn(len(data.labels), backbone.embed_dim, generator=rng)
        return Module(trained={"weight": weight})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        return lambda features: features @ module["weight"].T

    def loss(self, classifier: Classifier, batch: Batch) -> Tensor:
        self.batches.append(batch)
        return super().loss(classifier, batch)


def toy(**recipe: object) -> Toy:
    return Toy(Toy.Config(recipe=Recipe.model_validate({"epochs": 4, "batch_size": 4} | recipe)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def which_images(batch: Batch, view: Tensor) -> list[int]:
    """The rows of a view that a batch holds; every row is different."""
    return [int((view == row).all(-1).nonzero()) for row in batch.features]


@pytest.mark.parametrize(
    ("images", "batch_size", "steps", "size"),
    [
        ([3] * 5, 4, 3, 4),  # 15 images: the last 3 are dropped
        ([4] * 5, 4, 5, 4),  # nothing to drop
        ([1, 1, 1, 0, 0], 4, 1, 3),  # fewer than a batch: the only batch is kept
        ([2, 2, 0, 0, 0], 4, 1, 4),
        ([4, 3, 0, 0, 0], 4, 1, 4),
        ([3] * 5, 32, 1, 15),
    ],
)
def test_a_last_smaller_batch_is_dropped_unless_it_is_the_only_one(
    clip: Backbone,
    labels: Labels,
    make_data: MakeData,
    images: list[int],
    batch_size: int,
    steps: int,
    size: int,
) -> None:
    method = toy(epochs=2, batch_size=batch_size)
    method.fit(clip, make_data(clip, labels, shots=images), seeded())
    assert [len(batch.targets) for batch in method.batches] == [size] * steps * 2


def test_no_image_comes_twice_in_an_epoch(clip: Backbone, data: FewShotData) -> None:
    method = toy()
    method.fit(clip, data, seeded())
    for epoch in range(4):
        view = data.train.views[epoch % 2]
        seen = [i for b in method.batches[3 * epoch : 3 * epoch + 3] for i in which_images(b, view)]
        assert len(seen) == len(set(seen)) == 12


def test_epochs_differ_in_their_order(clip: Backbone, data: FewShotData) -> None:
    method = toy()
    method.fit(clip, data, seeded())
    orders = [tuple(which_images(method.batches[3 * e], data.train.views[e % 2])) for e in range(4)]
    assert len(set(orders)) == 4


def test_every_image_is_seen_in_the_long_run(clip: Backbone, data: FewShotData) -> None:
    method = toy(epochs=20)
    method.fit(clip, data, seeded())
    seen = Counter(
        i
        for step, batch in enumerate(method.batches)
        for i in which_images(batch, data.train.views[step // 3 % 2])
    )
    assert set(seen) == set(range(15))


def test_features_and_targets_of_a_batch_belong_together(clip: Backbone, data: FewShotData) -> None:
    method = toy()
    method.fit(clip, data, seeded())
    for step, batch in enumerate(method.batches):
        rows = which_images(batch, data.train.views[step // 3 % 2])
        assert batch.targets.tolist() == data.train.targets[rows].tolist()


def test_views_are_cycled_by_epoch(clip: Backbone, labels: Labels, make_data: MakeData) -> None:
    data = make_data(clip, labels, views=3)
    method = toy(epochs=7, batch_size=15)
    method.fit(clip, data, seeded())
    for epoch, batch in enumerate(method.batches):
        assert sorted(which_images(batch, data.train.views[epoch % 3])) == list(range(15))


def test_the_loss_is_cross_entropy_unless_a_method_says_otherwise(
    clip: Backbone, data: FewShotData
) -> None:
    method = Toy()
    module = method.init(clip, data, seeded())
    features, targets = data.train.plain, data.train.targets
    logits = features @ module["weight"].T
    expected = sum(
        torch.logsumexp(row, 0) - row[target] for row, target in zip(logits, targets, strict=True)
    ) / len(targets)
    found = method.loss(
        method.attach(module, clip, data.labels), Batch(features, targets, clip, data.labels)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("float64")
def test_a_whole_fit_equals_the_formula(clip64: Backbone, data64: FewShotData) -> None:
    """Order, views, schedule, momentum and decay of two epochs, written out."""
    recipe = Recipe(epochs=2, batch_size=4, lr=0.05, weight_decay=0.1, warmup_lr=0.01)
    found = Toy(Toy.Config(recipe=recipe)).fit(clip64, data64, seeded(3))["weight"]

    generator = seeded(3)
    weight, velocity = torch.randn(5, 16, generator=generator), torch.zeros(5, 16)
    for epoch in range(2):
        rate = 0.01 if epoch == 0 else 0.05
        order = torch.randperm(15, generator=generator)
        for step in range(3):
            rows = order[4 * step : 4 * step + 4]
            features = data64.train.views[epoch][rows]
            probabilities = (features @ weight.T).softmax(-1)
            wrong = probabilities - F.one_hot(data64.train.targets[rows], 5)
            gradient = wrong.T @ features / 4 + 0.1 * weight
            velocity = gradient if epoch == step == 0 else 0.9 * velocity + gradient
            weight = weight - rate * velocity
    torch.testing.assert_close(found, weight, rtol=1e-12, atol=1e-12)


def test_the_rate_of_every_step_is_the_schedule_s(
    clip: Backbone, data: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    step = torch.optim.SGD.step

    def watch(self: torch.optim.SGD, closure: None = None) -> None:
        used.append(self.param_groups[0]["lr"])
        step(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", watch)
    method = toy(schedule="cosine-step")
    method.fit(clip, data, seeded())
    assert used == [learning_rate(method.config.recipe, 0, 4, s, 12) for s in range(12)]  # type: ignore[attr-defined]
    used.clear()
    method = toy()
    method.fit(clip, data, seeded())
    assert used == [learning_rate(method.config.recipe, s // 3, 4) for s in range(12)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("cap", "steps"), [(None, 12), (100, 12), (12, 12), (11, 9), (6, 6), (3, 3), (2, 2), (1, 1)]
)
def test_a_cap_on_steps_cuts_epochs_and_is_never_passed(
    clip: Backbone, data: FewShotData, cap: int | None, steps: int
) -> None:
    method = Toy(Toy.Config(max_steps=cap))
    method.fit(clip, data, seeded())
    assert len(method.batches) == steps


def test_a_capped_fit_ends_its_schedule_too(
    clip: Backbone, data: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, int]] = set()

    def watch(recipe: Recipe, epoch: int, epochs: int, step: int, steps: int) -> float:
        seen.add((epochs, steps))
        return learning_rate(recipe, epoch, epochs, step, steps)

    monkeypatch.setattr("compatbench.method.trained.learning_rate", watch)
    Toy(Toy.Config(max_steps=6)).fit(clip, data, seeded())
    assert seen == {(3, 6)}


def test_a_capped_recipe_of_small_batches_keeps_the_share_of_its_warm_up(
    clip: Backbone, data: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def watch(recipe: Recipe, *where: int) -> float:
        rates.append(learning_rate(recipe, *where))
        return rates[-1]

    monkeypatch.setattr("compatbench.method.trained.learning_rate", watch)
    recipe = Recipe(batch_size=1, epochs=20)
    images = len(data.train)
    Toy(Toy.Config(recipe=recipe, max_steps=images)).fit(clip, data, seeded())
    per_epoch = math.ceil(images / 10)
    assert rates.count(recipe.warmup_lr) == per_epoch
    assert len(rates) == images // per_epoch * per_epoch


def test_modules_after_each_epoch_are_averaged_where_weights_are_given(
    clip: Backbone, data: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[Tensor] = []
    step = torch.optim.SGD.step

    def watch(self: torch.optim.SGD, closure: None = None) -> None:
        step(self, closure)
        after.append(self.param_groups[0]["params"][0].detach().clone())

    monkeypatch.setattr(torch.optim.SGD, "step", watch)
    shares = [0.2, 0.5, 0.0, 0.3]
    method = toy()
    monkeypatch.setattr(method, "epoch_weights", lambda epochs: shares[:epochs])
    found = method.fit(clip, data, seeded())
    assert len(after) == 12
    ends = after[2::3]
    expected = 0.2 * ends[0] + 0.5 * ends[1] + 0.3 * ends[3]
    torch.testing.assert_close(found["weight"], expected)
    assert not found["weight"].requires_grad


def test_a_batch_knows_its_images_under_the_next_view(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip, labels, views=3)
    method = toy(epochs=4)
    method.fit(clip, data, seeded())
    for step, batch in enumerate(method.batches):
        epoch = step // 3
        rows = which_images(batch, data.train.views[epoch % 3])
        assert batch.other_view is not None
        assert torch.equal(batch.other_view, data.train.views[(epoch + 1) % 3][rows])
        assert batch.inputs is batch.features


def test_a_batch_holds_what_was_asked_for_instead_of_features(
    clip: Backbone, data: FewShotData
) -> None:
    """Tokens of the same images under the same view, as rows are asked for."""
    tokens = [torch.randn(15, 3, 2), torch.randn(15, 3, 2)]
    train = dataclasses.replace(data.train, view_inputs=tokens)
    method = toy()
    seen: list[Tensor] = []

    def loss(classifier: Classifier, batch: Batch) -> Tensor:
        seen.append(batch.inputs)
        return Toy.loss(method, classifier, dataclasses.replace(batch, tokens=None))

    method.loss = loss  # type: ignore[method-assign]
    method.fit(clip, dataclasses.replace(data, train=train), seeded())
    for step, (batch, inputs) in enumerate(zip(method.batches, seen, strict=True)):
        view = step // 3 % 2
        rows = which_images(batch, data.train.views[view])
        assert torch.equal(inputs, tokens[view][rows])


def test_the_shots_decide_the_epochs(clip: Backbone, labels: Labels, make_data: MakeData) -> None:
    method = toy(epochs={1: 2, 4: 5}, batch_size=100)
    method.fit(clip, make_data(clip, labels, shots=3), seeded())
    assert len(method.batches) == 2
    method.fit(clip, make_data(clip, labels, shots=4), seeded())
    assert len(method.batches) == 2 + 5


def test_the_same_seed_gives_the_same_bits(clip: Backbone, data: FewShotData) -> None:
    assert (
        toy().fit(clip, data, seeded(1)).fingerprint == toy().fit(clip, data, seeded(1)).fingerprint
    )


def test_another_seed_gives_another_order_and_another_module(
    clip: Backbone, data: FewShotData
) -> None:
    one, other = toy(), toy()
    first, second = one.fit(clip, data, seeded(1)), other.fit(clip, data, seeded(2))
    assert first.fingerprint != second.fingerprint
    assert not torch.equal(one.batches[0].features, other.batches[0].features)


def test_a_fitted_module_has_no_gradients_left(clip: Backbone, data: FewShotData) -> None:
    assert not any(t.requires_grad for t in toy().fit(clip, data, seeded()).tensors.values())


def test_a_fit_leaves_its_data_as_they_were(clip: Backbone, data: FewShotData) -> None:
    before = data.train.views.clone(), data.train.plain.clone(), data.train.targets.clone()
    toy().fit(clip, data, seeded())
    after = data.train.views, data.train.plain, data.train.targets
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
