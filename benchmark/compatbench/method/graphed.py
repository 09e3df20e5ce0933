"""Training steps that are recorded once and repeated, so that Python does not start each operation.

Nothing is recorded on trust. The method's card says that its steps may be (``MethodCard.replays``);
a rehearsal is watched; and two steps of other inputs and rates, taken both ways, must agree but for
rounding. Otherwise the fit goes on from the state that it had, one operation after the other.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compatbench.backbone.recording import CudaGraph, Watch, clone, fill, require_same
from compatbench.messages import first_line

if TYPE_CHECKING:
    from compatbench.method import Module
    from compatbench.method.batch import Batch

VARIABLE = "COMPATBENCH_CUDA_GRAPHS"  # 0: no step is recorded
RECORDERS = {"cuda": CudaGraph}  # by the kind of device
LEAST_STEPS = 50  # of a fit that is recorded
WARM_UP = 3  # steps before: what is computed once is there then, and the optimiser's state


def find_recorder(device: torch.device, steps: int) -> CudaGraph | None:
    """What records a fit of so many steps on a device; None if all are taken one by one."""
    kind = RECORDERS.get(device.type)
    if kind is None or kind.broken or steps < LEAST_STEPS or os.environ.get(VARIABLE) == "0":
        return None
    return kind(device)


def set_rate(group: dict[str, Any], rate: float) -> None:
    """The learning rate of an optimiser's group, in its own memory where that is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


class GraphedStep:
    """Takes a step of each batch that it is called with; with a recorder, it comes to repeat one.

    A step changes the module and the optimiser, whose rates are then tensors, and nothing else.
    """

    def __init__(
        self,
        step: Callable[[Batch], None],
        module: Module,
        optimizer: torch.optim.Optimizer,
        rng: torch.Generator,
        recorder: CudaGraph | None,
    ) -> None:
        self._step, self._module, self._optimizer, self._rng = step, module, optimizer, rng
        self._recorder, self._taken = recorder, 0
        self._read: list[Tensor] = []  # by the step that is repeated

    @property
    def records_next(self) -> bool:
        """Whether the next step may be recorded: then nothing else should use the device."""
        return self._recorder is not None and not self._read and self._taken >= WARM_UP

    def __call__(self, batch: Batch) -> None:
        if self._recorder is not None and self._taken == 0:
            self._batch = _hold(batch)
        usual = self._recorder is not None and _shapes(batch) == _shapes(self._batch)
        if usual and self.records_next:
            self._record(batch.tensors)
        self._taken += 1
        if self._recorder is None or (self._read and not usual):
            self._step(batch)
        elif self._read:
            fill(batch.tensors, self._batch.tensors)
            self._recorder.replay()
        else:
            self._recorder.run(lambda: self._step(batch))

    def _record(self, inputs: list[Tensor]) -> None:
        """Records a step, if it can be repeated; all that steps change is as before."""
        recorder, groups, rng = self._recorder, self._optimizer.param_groups, self._rng.get_state()
        assert recorder is not None
        state, device = self._state(), inputs[0].device
        start, rehearsal, recording = clone(state), Watch(device, state), Watch(device, state)

        def take(watch: Watch) -> None:
            with watch:
                self._step(self._batch)

        def take_copy() -> None:
            self._step(_hold(self._batch))

        try:
            fill(inputs, self._batch.tensors)
            recorder.rehearse(lambda: take(rehearsal))
            fill(start, state)
            self._optimizer.zero_grad()
            rehearsal.require_nothing_left()
            for group in groups:
                group["capturable"] = True  # Adam is asked for it; at other times PyTorch warns
            recorder.capture(lambda: take(recording))
            # On copies: what is remembered by its tensor is then computed anew.
            once = self._take_two(inputs, lambda: recorder.run(take_copy))
            fill(start, state)
            again = self._take_two(inputs, recorder.replay)
            require_same(start, once, again, len(self._module.trained))
            self._read = recording.read
        except Exception as error:  # a method's own error comes again
            logging.getLogger(__name__).info("steps are taken one by one: %s", first_line(error))
            self._recorder = None
        for group in groups:
            group["capturable"] = False
        fill(start, state)
        self._rng.set_state(rng)

    def _take_two(self, inputs: list[Tensor], take: Callable[[], None]) -> list[Tensor]:
        """The state after two steps of unlike inputs at unlike rates."""
        others = [x.flip(-1) * (2 if x.is_floating_point() else 1) for x in inputs]
        for share, values in ((1.0, inputs), (0.5, others)):
            for group in self._optimizer.param_groups:
                set_rate(group, share * group["recipe"].lr)
            fill(values, self._batch.tensors)
            take()
        return clone(self._state())

    def _state(self) -> list[Tensor]:
        """All that a step changes, what is trained first, and the rates."""
        kept = [x for state in self._optimizer.state.values() for x in state.values()]
        rates = [group["lr"] for group in self._optimizer.param_groups]
        return [x for x in (*self._module.tensors.values(), *kept, *rates) if isinstance(x, Tensor)]


def _shapes(batch: Batch) -> list[tuple[torch.Size, torch.dtype]]:
    return [(x.shape, x.dtype) for x in batch.tensors]


def _hold(batch: Batch) -> Batch:
    """A copy in memory of its own."""
    return batch.with_tensors([x.clone() for x in batch.tensors])
