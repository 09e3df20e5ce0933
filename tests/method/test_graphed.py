"""Steps that are recorded and repeated: on a processor by a make-believe graph, and what refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.method import graphed
from compatbench.backbone.recording import CudaGraph, tensors_of
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod


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

    broken = False
    made: list[FakeGraph] = []

    def __init__(self, device: torch.device) -> None:
        self.replays = 0
        FakeGraph.made.append(self)

    def run(self, step: Callable[[], None]) -> None:
        step()

    rehearse = run

    def capture(self, step: Callable[[], None]) -> None:
        with Recording() as recording:
            step()
        self._calls = recording.calls
        for storage, before in recording.before.items():  # a step that is recorded computes nothing
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, before in self._calls:
            for old, new in zip(tensors_of(before), tensors_of(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeGraph]]:
    """The graphs of fits on the processor."""
    monkeypatch.setitem(graphed.RECORDERS, "cpu", FakeGraph)
    monkeypatch.setattr(graphed, "LEAST_STEPS", 5)
    FakeGraph.made.clear()
    yield FakeGraph.made
    FakeGraph.made.clear()


TRAINED = [
    n for n in builtin_methods().names() if issubclass(builtin_methods().get(n), TrainedMethod)
]


@pytest.mark.parametrize("name", TRAINED)
def test_all(name, graphs, monkeypatch, caplog):
    import logging

    caplog.set_level(logging.INFO)
    subject = MethodUnderTest(builtin_methods().get(name))
    STEPS = 20
    found = subject.fit(steps=STEPS)
    print(
        name,
        [g.replays for g in graphs],
        [r.message for r in caplog.records if "one by one" in r.message],
    )
    monkeypatch.delitem(graphed.RECORDERS, "cpu")
    plain = subject.fit(steps=STEPS)
    for n, x in plain.tensors.items():
        d = float((x.double() - found[n].double()).norm() / x.double().norm().clamp(min=1e-30))
        if d > 1e-5:
            print("   DIFF", n, d)
