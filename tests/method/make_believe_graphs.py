"""CUDA graphs on a processor, which repeat what they have seen; a method whose steps they may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compatbench.backbone import Backbone
from compatbench.backbone.recording import CudaGraph, NotRepeatable, tensors_of
from compatbench.method import FewShotData, Labels, Method, MethodCard, Module, graphed
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import Recipe, TrainedMethod

# The methods whose steps are repeated. What is not among them draws, averages beside its module,
# sorts, looks whether it is done, or trains a whole tower, where products take longest.
REPEATED = [name for name, cls in builtin_methods().classes.items() if cls.card.replays]


ToyMethod = TypeVar("ToyMethod", bound="Toy")


class Toy(TrainedMethod):
    """A linear classifier, whose loss a test may change."""

    card = MethodCard("toy", "Toy", "none", "classifier", "a linear classifier", replays=True)

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(epochs=6, batch_size=4, lr=0.1)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        weight = torch.randn(len(data.labels), backbone.embed_dim, generator=rng)
        return Module({"weight": weight}, {"shift": torch.rand((), generator=rng)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Any:
        weight = module["weight"] + module["shift"]
        return lambda features: F.normalize(features, dim=-1) @ weight.T


def toy(cls: type[ToyMethod] = Toy, max_steps: int | None = None, **recipe: Any) -> ToyMethod:
    """A toy with changes of its recipe."""
    recipe = Toy.Config().recipe.model_dump() | recipe
    return cls(cls.Config(recipe=Recipe.model_validate(recipe), max_steps=max_steps))


def fit(method: Method, backbone: Backbone, data: FewShotData, seed: int = 1) -> Module:
    return method.fit(backbone, data, torch.Generator().manual_seed(seed))


class Recorded:
    """Rows that note which they were asked for, and were told of before."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.asked, self.told = rows, list[Tensor](), list[Tensor]()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        self.asked.append(index)
        return self.rows[index]

    def prefetch(self, index: Tensor) -> None:
        self.told.append(index)


class Recording(TorchDispatchMode):
    """Notes each operation with the tensors and numbers that it had."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []  # which keep all tensors
        self.before: dict[torch.UntypedStorage, torch.UntypedStorage] = {}
        self._made: set[torch.UntypedStorage] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for storage in {x.untyped_storage() for x in tensors_of((args, kwargs))} - self._made:
            if storage not in self.before:
                self.before[storage] = storage.clone()
        result = func(*args, **kwargs)
        self._made |= {x.untyped_storage() for x in tensors_of(result)} - self.before.keys()
        self.calls.append((func, args, kwargs, result))
        return result


class FakeGraph(CudaGraph):
    """What a CUDA graph does: the same operations, in the same memory, with the same numbers."""

    made: list[FakeGraph]

    def __init__(self, device: torch.device) -> None:
        self.replays = 0
        self.made.append(self)

    def run(self, compute: Callable[[], None]) -> None:
        compute()

    rehearse = run

    def capture(self, compute: Callable[[], None]) -> None:
        with Recording() as recording:
            compute()
        self._calls = recording.calls
        for (
            storage,
            before,
        ) in recording.before.items():  # while it is recorded, nothing is computed
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, before in self._calls:
            results = tensors_of(func(*args, **kwargs))
            for old, new in zip(tensors_of(before), results, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Refusing(FakeGraph):
    """Takes all steps one by one, with the optimiser of recorded ones."""

    def rehearse(self, compute: Callable[[], None]) -> None:
        raise NotRepeatable("not now")


def count_replays(
    patch: pytest.MonkeyPatch,
    fit_all: Callable[[], Sequence[Module]],
    kind: type[FakeGraph] = FakeGraph,
) -> list[int]:
    """How often graphs of a kind are repeated in fits on a processor.

    Fails unless they are, bit for bit, the fits of single steps.
    """
    patch.setattr(graphed, "LEAST_STEPS", 5)
    fits = []
    for each in (Refusing, kind):
        patch.setattr(FakeGraph, "made", [], raising=False)
        patch.setitem(graphed.RECORDERS, "cpu", each)
        fits.append(fit_all())
    for module, other in zip(*fits, strict=True):
        assert module.tensors.keys() == other.tensors.keys()
        for name, tensor in module.tensors.items():
            assert torch.equal(tensor, other[name]), name
    return [graph.replays for graph in FakeGraph.made]
