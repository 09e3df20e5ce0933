"""Cross-modal: z = s f̂ Wᵀ, half of every batch images and half texts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from formulas import unit
from open_clip_reference import encode_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods import cross_modal
from compatbench.methods.cross_modal import CrossModal


def texts_of(backbone: Backbone, labels: Labels) -> list[Tensor]:
    """Text features, one tensor ``[C, e]`` for each template."""
    return [
        encode_texts(backbone, [template.format(name) for name in labels.names])
        for template in labels.templates
    ]


def test_logits_equal_the_formula(backbone64: Backbone, labels: Labels, images64: Tensor) -> None:
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).double()
    logits = CrossModal().attach(Module({"weight": weight}), backbone64, labels)(images64)
    scale = math.exp(float(backbone64.model.logit_scale))  # type: ignore[arg-type]
    for i, f in enumerate(unit(images64)):
        for c in range(5):
            expected = scale * float(f.dot(weight[c]))
            assert float(logits[i, c]) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("batch_size", [8, 5])
def test_steps_follow_the_gradient_on_images_and_texts(
    float64: None,
    clip64: Backbone,
    labels: Labels,
    make_data: MakeData,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
) -> None:
    """Three steps of AdamW, in which the samples are drawn in order; no validation images."""
    drawn: list[tuple[int, int]] = []

    def in_order(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
        drawn.append((count, size))
        while True:
            yield from torch.arange(count)[: count // size * size].split(size)

    monkeypatch.setattr(cross_modal, "_batches", in_order)
    data = make_data(clip64, labels, val=0)
    config = CrossModal.Config(
        lrs=(0.05,), weight_decays=(0.01,), batch_sizes=(batch_size,), max_steps=3
    )
    found = CrossModal(config).fit(clip64, data, torch.Generator())["weight"]
    of_texts = batch_size // 2
    of_images = batch_size - of_texts
    assert drawn == [(15, of_images), (15, of_texts)]

    templates = texts_of(clip64, labels)
    words, owners = torch.cat(templates), [0, 1, 2, 3, 4] * 3
    start = weight = unit(sum(templates) / 3)
    scale = clip64.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    first, second = torch.zeros(5, 16), torch.zeros(5, 16)
    for step in range(3):
        weight = weight.detach().requires_grad_()
        losses = []
        for k in range(of_images):
            i = step * of_images + k
            logits = scale * weight @ unit(data.train.plain[i])
            losses.append(logits.logsumexp(0) - logits[data.train.targets[i]])
        for k in range(of_texts):
            i = step * of_texts + k
            logits = scale * weight @ unit(words[i])
            losses.append(logits.logsumexp(0) - logits[owners[i]])
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), weight)
        rate = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 3))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        weight = (1 - rate * 0.01) * weight - rate * mean / (square.sqrt() + 1e-8)
    assert (found - start).abs().max() > 0.05
    torch.testing.assert_close(found, weight.detach(), rtol=1e-6, atol=1e-8)


def test_the_rate_warms_up_then_follows_a_cosine() -> None:
    method = CrossModal()
    assert method._rate(1e-3, 0, 12800) == 1e-5
    assert method._rate(1e-3, 1, 12800) == pytest.approx(1e-3 / 50)
    assert method._rate(1e-3, 49, 12800) == pytest.approx(1e-3 * 49 / 50)
    assert method._rate(1e-3, 50, 12800) == 1e-3
    assert method._rate(1e-3, 6450, 12800) == pytest.approx(5e-4)
    assert method._rate(1e-3, 12799, 12800) < 1e-7


def test_a_cap_on_steps_shortens_the_warm_up_in_proportion() -> None:
    method = CrossModal()
    rates = [method._rate(1e-3, step, 512) for step in range(3)]
    assert rates == pytest.approx([1e-5, 5e-4, 1e-3])


def test_batches_go_through_all_samples_and_drop_the_rest() -> None:
    batches = cross_modal._batches(7, 3, torch.Generator().manual_seed(0))
    for _ in range(3):
        one, two = next(batches), next(batches)
        assert len(one) == len(two) == 3
        assert len({*one.tolist(), *two.tolist()}) == 6


def test_a_batch_is_no_larger_than_the_samples() -> None:
    assert len(next(cross_modal._batches(3, 16, torch.Generator()))) == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_the_sweep_keeps_the_first_best_run_at_its_first_best_check(
    clip: Backbone, labels: Labels, make_data: MakeData, seed: int
) -> None:
    data = make_data(clip, labels, val=4, seed=seed)
    sweep = dict(lrs=(1e-3, 0.3), weight_decays=(0.0,), batch_sizes=(8,))
    config = CrossModal.Config.model_validate(sweep | {"max_steps": 9, "check_every": 4})
    found = CrossModal(config).fit(clip, data, torch.Generator().manual_seed(1))

    rng, candidates = torch.Generator().manual_seed(1), []
    for lr in (1e-3, 0.3):
        for steps, module in _checked(clip, data, lr, rng):
            classify = CrossModal().attach(module, clip, labels)
            right = int((classify(data.val.plain).argmax(-1) == data.val.targets).sum())
            candidates.append((right, lr, steps, module["weight"]))
    assert [steps for _, _, steps, _ in candidates] == [1, 5, 9, 1, 5, 9]
    assert len({right for right, *_ in candidates}) > 1
    _, lr, steps, weight = max(candidates, key=lambda candidate: candidate[0])
    assert (float(found["lr"]), int(found["steps"])) == (pytest.approx(lr), steps)
    torch.testing.assert_close(found["weight"], weight)


def _checked(
    clip: Backbone, data: FewShotData, lr: float, rng: torch.Generator
) -> list[tuple[int, Module]]:
    """The module of a run at each of its checks, by cutting the same run short there."""
    state, modules = rng.get_state(), []
    method = CrossModal(CrossModal.Config(max_steps=9))
    for steps in (1, 5, 9):
        rng.set_state(state)
        modules.append((steps, _cut(method, clip, data, lr, rng, steps)))
    return modules


def _cut(
    method: CrossModal,
    clip: Backbone,
    data: FewShotData,
    lr: float,
    rng: torch.Generator,
    steps: int,
) -> Module:
    train = data.train
    texts = torch.stack([clip.text_features(data.labels.fill(t)) for t in data.labels.templates])
    weight = unit(texts.mean(0)).requires_grad_()
    optimizer = torch.optim.AdamW([weight], weight_decay=0.0)
    images = cross_modal._batches(15, 4, rng)
    words = cross_modal._batches(15, 4, rng)
    for step in range(9):
        i, j = next(images), next(words)
        if step >= steps:
            continue  # the generator moves on as in a whole run
        features = torch.cat([train.plain[i], texts.flatten(0, 1)[j]])
        targets = torch.cat([train.targets[i], j % 5])
        logits = clip.logit_scale * unit(features) @ weight.T
        optimizer.param_groups[0]["lr"] = method._rate(lr, step, 9)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()
    return Module({"weight": weight}).detach()


def test_what_was_chosen_is_stored(clip: Backbone, data: FewShotData) -> None:
    module = CrossModal(CrossModal.Config(max_steps=2)).fit(clip, data, torch.Generator())
    assert set(module.trained) == {"weight"}
    assert set(module.stored) == {"lr", "weight_decay", "batch_size", "steps"}
    assert module.parameters == 5 * 16


def test_without_validation_images_the_first_settings_and_the_last_step_count(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    config = CrossModal.Config(max_steps=4, check_every=1)
    module = CrossModal(config).fit(clip, make_data(clip, labels, val=0), torch.Generator())
    chosen = {name: float(tensor) for name, tensor in module.stored.items()}
    assert chosen == pytest.approx({"lr": 1e-3, "weight_decay": 0, "batch_size": 8, "steps": 4})
