"""Operations of training steps, which start kernels on a GPU: counted, and in a table."""

from __future__ import annotations

import pytest
import torch
from launches import Counter, count_step
from unrecorded_methods import UNRECORDED

from compatbench.engine.gpu_hours import read_launches
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod


def test_operations_that_compute_are_counted_in_both_passes() -> None:
    weight, images = torch.ones(3, 4, requires_grad=True), torch.ones(2, 4)
    with Counter() as counter:
        loss = (images @ weight.T).exp().view(-1).sum()
        assert counter.count == 3  # a product, exp, a sum; turning and flattening are views
        loss.backward()
    # One for the loss, exp's factor and product, the product in the weight.
    assert counter.count in (6, 7)


@pytest.mark.parametrize("name", ["coop", pytest.param("vpt_deep", marks=pytest.mark.slow)])
def test_the_table_counts_no_fewer_operations_than_a_step_has(name: str) -> None:
    counted, table = count_step(builtin_methods().get(name), 12), read_launches()[name]
    assert 0 < counted <= 1.05 * (table.fixed + 12 * table.per_block) < 1000


def test_every_method_that_is_trained_is_in_the_table() -> None:
    registry = builtin_methods()
    trained = {name for name in registry.names() if issubclass(registry.get(name), TrainedMethod)}
    assert trained ^ read_launches().keys() <= UNRECORDED
