"""Several fits in one batch are those that are made one by one; what must not be is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from make_believe_graphs import REPEATED, Toy, count_replays, fit, toy
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest
from compatbench.method import FewShotData
from compatbench.method.registry import builtin_methods
from compatbench.method.together import NotTogether, can_be_together, fit_together
from compatbench.method.trained import Batch

SEEDS = 1, 2, 3
# ProGrad takes gradients within its loss.
TOGETHER = [n for n in REPEATED if can_be_together(builtin_methods().get(n)()) and n != "prograd"]


def rngs() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_fits_together_are_those_of_single_fits_but_for_rounding(name: str) -> None:
    """On other images and by other seeds, of what they say of images.

    A tensor may differ by more: the gradient of keys' biases is 0, of which Adam makes steps.
    """
    subject = MethodUnderTest(builtin_methods().get(name))
    draws = [subject.draw(seed=seed) for seed in SEEDS]
    steps, inputs = 4, subject.inputs(subject.source)
    alone = [subject.fit(data, seed, steps) for data, seed in zip(draws, SEEDS, strict=True)]
    methods = [subject.build(steps) for _ in SEEDS]
    with torch.enable_grad():
        together = fit_together(methods, subject.source, draws, rngs())
    assert len({module.fingerprint for module in together}) == len(SEEDS)
    for a, b in zip(alone, together, strict=True):
        assert a.tensors.keys() == b.tensors.keys()
        logits, others = (
            subject.attach(subject.source, module, subject.draw().labels)(inputs)
            for module in (a, b)
        )
        torch.testing.assert_close(logits, others, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "adamw"}, {"pool_views": True}, {"drop_last": False, "batch_size": 7}],
)
def test_rates_views_and_last_batches_are_those_of_each_fit(
    changes: dict[str, Any], clip: Backbone, data: FewShotData
) -> None:
    """Fits of unlike rates, of one draw: each has an order of its own."""
    methods = [toy(lr=rate, **changes) for rate in (0.1, 0.01, 0.3)]
    alone = [fit(method, clip, data, seed) for method, seed in zip(methods, SEEDS, strict=True)]
    for a, b in zip(alone, fit_together(methods, clip, [data] * 3, rngs()), strict=True):
        torch.testing.assert_close(a["weight"], b["weight"], rtol=1e-4, atol=1e-5)
        assert torch.equal(a["shift"], b["shift"])


def ask(_: Toy, batch: Batch, loss: Tensor) -> Tensor:
    return loss if loss.requires_grad else loss.detach() + 0 * loss


DANGERS: dict[str, tuple[Callable[[Toy, Batch, Tensor], Tensor], str]] = {
    "a value decides": (lambda _, batch, loss: loss if loss > 1 else 2 * loss, "data-dependent"),
    "PyTorch's generator draws": (lambda _, batch, loss: loss * torch.rand(()), "randomness"),
    "rows are looked at": (lambda _, batch, loss: loss * batch.rows.sum(), "object"),  # type: ignore[union-attr]
    "a tensor is asked for gradients": (ask, "not that of a single fit"),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "reason"), DANGERS.values(), ids=DANGERS)
def test_what_must_not_be_together_is_refused(
    loss: Callable[[Toy, Batch, Tensor], Tensor], reason: str, clip: Backbone, data: FewShotData
) -> None:
    class Dangerous(Toy):
        def loss(self, classifier: Any, batch: Batch) -> Tensor:
            return loss(self, batch, super().loss(classifier, batch))

    with pytest.raises(Exception, match=reason):
        fit_together([Dangerous()] * 3, clip, [data] * 3, rngs())


def test_a_method_that_does_not_say_so_is_not_fitted_together(
    clip: Backbone, data: FewShotData
) -> None:
    class Silent(Toy):
        card = replace(Toy.card, replays=False)

    with pytest.raises(NotTogether, match="more than its batch"):
        fit_together([Silent()] * 3, clip, [data] * 3, rngs())


def test_draws_of_unlike_sizes_are_not_fitted_together(clip: Backbone) -> None:
    subject = MethodUnderTest(Toy)
    draws = [subject.draw(LABELS, shots) for shots in (3, 3, 2)]
    with pytest.raises(Exception, match="unlike numbers of images"):
        fit_together([Toy()] * 3, subject.source, draws, rngs())


def test_steps_of_several_fits_are_repeated_too(
    clip: Backbone, data: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor, by a make-believe graph: bit for bit the steps that are taken one by one."""
    fits = partial(fit_together, [Toy()] * 3, clip, [data] * 3)
    [replays] = count_replays(monkeypatch, lambda: fits(rngs()))
    assert replays > 2
