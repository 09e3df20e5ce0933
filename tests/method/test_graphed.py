"""Steps that are recorded and repeated, on a processor by a make-believe graph; what refuses."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from make_believe_graphs import REPEATED, FakeGraph, Recorded, Toy, count_replays, fit, toy
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.parts.memory import current_budget
from compatbench.backbone.recording import CudaGraph, NotRepeatable, Watch, tensors_of
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.method import FewShotData, Module, graphed
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import Batch


@pytest.mark.slow
@pytest.mark.parametrize("name", REPEATED)
def test_a_fit_of_repeated_steps_is_the_one_of_single_steps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, of every stage; MMA has 5 steps, the fewest."""
    subject = MethodUnderTest(builtin_methods().get(name))
    replays = count_replays(monkeypatch, lambda: [subject.fit(steps=15)])
    assert min(replays) > 2
    assert len(replays) == 1 + (name in ("mergetune", "promptkd", "twosfs"))


class Watched(Toy):
    """Keeps what a loss may do wrong with."""

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        self.total, self.images = torch.zeros(()), len(data.train)
        self.remembered = self.total, self.total  # a tensor, and what was computed of it
        self.targets, self.rng = data.train.targets, rng
        return super().init(backbone, data, rng)


def add_up(method: Watched, batch: Batch, loss: Tensor) -> Tensor:
    with torch.no_grad():
        method.total.add_(loss)
    return loss + 0 * method.total


def remember(method: Watched, batch: Batch, loss: Tensor) -> Tensor:
    """What is remembered by its tensor is made again for each batch, but not for a held one."""
    if method.remembered[0] is not batch.features:
        method.remembered = batch.features, batch.features.mean() + 1
    return loss * method.remembered[1]


def keep(method: Watched, batch: Batch, loss: Tensor) -> Tensor:
    method.total = loss.detach()
    return loss


DANGERS: dict[str, tuple[Callable[[Watched, Batch, Tensor], Tensor], str]] = {
    "a number is read": (lambda _, batch, loss: loss * (1 + float(loss.detach())), "asks for"),
    "a value decides": (lambda _, batch, loss: loss if loss > 1 else 2 * loss, "asks for"),
    "numbers choose": (lambda _, batch, loss: loss + loss[None][loss[None] > 0].sum(), "asks for"),
    "the batch's generator draws": (
        lambda _, batch, loss: loss * torch.rand((), generator=batch.rng), "generator"
    ),
    "the fit's generator draws": (
        lambda method, batch, loss: loss * torch.rand((), generator=method.rng), "draws"
    ),
    "rows are looked at": (
        lambda method, batch, loss: loss * method.targets[batch.rows].float().mean(), "object"
    ),
    "a tensor is made of numbers": (lambda _, batch, loss: loss * torch.tensor(2.0), "made of"),
    "another tensor is changed": (add_up, "changes a tensor"),
    "inputs are remembered": (remember, "leaves a tensor"),
    "a loss is kept": (keep, "leaves a tensor"),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "reason"), DANGERS.values(), ids=DANGERS)
def test_what_must_not_be_repeated_is_not(
    loss: Callable[[Watched, Batch, Tensor], Tensor],
    reason: str,
    clip: Backbone,
    data: FewShotData,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The fit goes on as if nothing had been tried, and does not try again."""

    class Dangerous(Watched):
        def loss(self, classifier: Any, batch: Batch) -> Tensor:
            return loss(self, batch, super().loss(classifier, batch))

    caplog.set_level(logging.INFO, "compatbench.method.graphed")
    assert count_replays(monkeypatch, lambda: [fit(Dangerous(), clip, data)]) == [0]
    refused, said = caplog.messages
    assert reason in said
    assert refused == "steps are taken one by one: not now"


def fail(*_: object) -> None:
    raise RuntimeError("operation not permitted when stream is capturing")


class Failing(FakeGraph):
    def capture(self, compute: Callable[[], None]) -> None:
        with pytest.raises(RuntimeError, match="capturing"):
            super().capture(lambda: (compute(), fail()))  # type: ignore[arg-type, return-value]
        fail()


class Stale(FakeGraph):
    """Repeats one batch, whatever it is given."""

    def replay(self) -> None:
        features = next(x for f, a, *_ in self._calls for x in tensors_of(a) if x.shape == (4, 16))
        if self.replays == 0:
            self._first = features.clone()
        features.copy_(self._first)
        super().replay()


class Constant(FakeGraph):
    """Repeats the rate that it was recorded with."""

    def capture(self, compute: Callable[[], None]) -> None:
        super().capture(compute)
        self._calls = [
            (func, args, kwargs | ({"lr": kwargs["lr"].clone()} if "lr" in kwargs else {}), result)
            for func, args, kwargs, result in self._calls
        ]


class Idle(FakeGraph):
    def replay(self) -> None:
        pass


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("kind", "replays"), [(FakeGraph, 15 + 2), (Failing, 0), (Idle, 0), (Stale, 2), (Constant, 2)]
)
def test_a_graph_that_fails_or_is_wrong_changes_nothing(
    kind: type[FakeGraph],
    replays: int,
    optimizer: str,
    clip: Backbone,
    data: FewShotData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three of 18 steps come before; two are repeated to be compared."""
    method = toy(optimizer=optimizer)
    assert count_replays(monkeypatch, lambda: [fit(method, clip, data)], kind) == [replays]


def test_steps_of_another_size_are_taken_one_by_one_between_repeated_ones(
    clip: Backbone, data: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 images: of four batches the last has three, and the fourth step is one."""
    method = toy(drop_last=False)
    assert count_replays(monkeypatch, lambda: [fit(method, clip, data)]) == [2 + 5 * 3]


def test_nothing_is_read_ahead_while_a_step_is_recorded(
    clip: Backbone, data: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Recorded(data.train.views[0])
    images = dataclasses.replace(data.train, view_inputs=[rows], views=data.train.views[:1])

    def fit_anew() -> list[Module]:
        rows.asked, rows.told = [], []
        return [fit(toy(batch_size=2), clip, dataclasses.replace(data, train=images))]

    count_replays(monkeypatch, fit_anew)
    # Not in the fourth step, which is recorded; nor is another epoch's first batch known.
    assert all(map(torch.equal, rows.told[:6], (rows.asked[i] for i in (1, 2, 3, 5, 6, 8))))


def test_short_fits_fits_of_others_losses_and_processes_that_say_so_record_nothing(
    clip: Backbone, data: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Subclass(Toy):
        card = dataclasses.replace(Toy.card, replays=False)

    def train() -> Module:
        rng, loss = torch.Generator(), lambda module, batch: module["weight"].square().sum()
        return toy().train(toy().init(clip, data, rng), loss, clip, data, rng)

    def count(make: Callable[[], Module]) -> int:
        return len(count_replays(monkeypatch, lambda: [make()]))

    plain = partial(fit, toy(), clip, data)
    assert count(plain) == 1
    assert count(partial(fit, Subclass(), clip, data)) == 0
    assert count(partial(fit, toy(max_steps=4), clip, data)) == 0
    assert count(train) == 0
    with monkeypatch.context() as patch:
        patch.setenv(graphed.VARIABLE, "0")
        assert count(plain) == 0
    monkeypatch.setattr(FakeGraph, "broken", True)
    assert count(plain) == 0


def test_a_graph_that_fails_is_the_last_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves the stream that was set before."""
    streams = ["usual"]

    @contextmanager
    def put(stream: str, *, always: bool) -> Iterator[None]:
        before, streams[0], failed = streams[0], stream, True
        try:
            yield
            failed = False
        finally:
            if always or not failed:
                streams[0] = before

    # ``torch.cuda.graph`` does not put it back where something fails.
    graph_of = lambda *_, stream, **__: put(stream, always=False)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "stream", partial(put, always=True))
    monkeypatch.setattr(torch.cuda, "graph", graph_of)
    monkeypatch.setattr(CudaGraph, "broken", False)
    graph = object.__new__(CudaGraph)
    vars(graph).update(_graph=None, _stream="side", _budget=2**30)
    used: list[Any] = []
    graph.capture(lambda: used.append((streams[0], current_budget())))
    assert used == [("side", 2**30)]
    assert not CudaGraph.broken
    with pytest.raises(RuntimeError):
        graph.capture(fail)
    assert (CudaGraph.broken, streams) == (True, ["usual"])


def on(device: str) -> Tensor:
    return torch.ones(4, device=device)


@pytest.mark.parametrize(
    ("compute", "problem"),
    [
        (lambda x: x * on("cpu"), "computes on the processor"),
        (lambda x: on("cpu").exp(), "computes on the processor"),
        (lambda x: x.new_empty(3).copy_(torch.ones(3)), "computes on the processor"),
        (lambda x: on("cpu").add_(1), "changes a tensor|computes on the processor"),
        (lambda x: x.nonzero(), "asks for"),
        (lambda x: torch.ones(4, device="meta", out=OUTSIDE), "changes a tensor"),
        (lambda x: OUTSIDE.mul_(2), "changes a tensor"),
        (lambda x: torch.ops.aten._foreach_add_([x.clone(), OUTSIDE], 1), "changes a tensor"),
        (lambda x: OUTSIDE[1:].zero_(), "changes a tensor"),
        (lambda x: torch.where(x > 0, x, 0.0) * 2 + x.clone().mul_(3).sum(), ""),
        (lambda x: x.mul_(2), ""),
    ],
)
def test_a_watch_refuses(compute: Callable[[Tensor], Tensor], problem: str) -> None:
    """On a device whose tensors have no numbers; its own tensors may be changed."""
    x = on("meta")
    refused = pytest.raises(NotRepeatable, match=problem) if problem else nullcontext()
    with refused, Watch(x.device, [x]):
        compute(x)


OUTSIDE = on("meta")


def test_a_watch_keeps_what_was_there_before_and_nothing_else() -> None:
    weight, x = torch.ones(2, 4, requires_grad=True), torch.ones(3, 4)
    with Watch(x.device, []) as watch:
        (x @ weight.T).exp().square().sum().backward()
    read = {tensor.untyped_storage() for tensor in watch.read}
    assert read == {x.untyped_storage(), weight.untyped_storage()}
