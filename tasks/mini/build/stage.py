"""Run one stage of a training: steps, schedule, checkpoints, facts."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch

from compatbench.files.atomic import open_atomic, write_atomic

from .progress import bar

BATCH = 256
WARM_UP = 60
FINAL_RATE = 0.02
REPORT_EVERY = 100


@dataclass
class Progress:
    """The progress of a stage; part of its checkpoint and of the manifest."""

    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def set_rates(optimisers: Iterable[torch.optim.Optimizer], step: int, steps: int) -> None:
    """Set the learning rates of a step: linear warm-up, then a cosine down to almost nothing."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    factor = min(1.0, (step + 1) / WARM_UP) * (FINAL_RATE + (1 - FINAL_RATE) * cosine)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = factor * group["peak"]


class Stage:
    """Run one stage of training step by step, with checkpoints and a progress bar.

    Args:
        name: Shown in the bar; also the checkpoint's name.
        folder: Where the checkpoint is kept.
        steps: How many steps the stage has.
        modules: The trained modules by name.
        optimisers: Their optimisers.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        steps: int,
        modules: dict[str, torch.nn.Module],
        optimisers: list[torch.optim.Optimizer],
    ) -> None:
        self.name, self.steps = name, steps
        self.modules, self.optimisers = modules, optimisers
        self.progress = Progress()
        #: Two threads for what can run side by side.
        self.workers = ThreadPoolExecutor(max_workers=2)
        self._path = folder / f"{name}.checkpoint.pt"
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._resume()

    def run(self, take_step: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Train to the end.

        Args:
            take_step: Sets the gradients of a step; returns its loss and one more figure.
        """
        parameters = [p for o in self.optimisers for g in o.param_groups for p in g["params"]]
        started, before = time.monotonic(), self.progress.seconds
        cpu_started, cpu_before = time.process_time(), self.progress.cpu_seconds
        sums = np.zeros(2)
        with bar() as progress:
            task = progress.add_task(
                self.name, total=self.steps, completed=self.progress.step, note=""
            )
            for step in range(self.progress.step, self.steps):
                set_rates(self.optimisers, step, self.steps)
                for optimiser in self.optimisers:
                    optimiser.zero_grad()
                step_loss, step_figure = take_step(step)
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                for done in [self.workers.submit(o.step) for o in self.optimisers]:
                    done.result()
                sums += (step_loss.item(), step_figure.item())
                self.progress.step = step + 1
                self.progress.seconds = before + time.monotonic() - started
                self.progress.cpu_seconds = cpu_before + time.process_time() - cpu_started
                if self.progress.step % REPORT_EVERY == 0:
                    loss, figure = (sums / REPORT_EVERY).round(4).tolist()
                    row = {"step": self.progress.step, "loss": loss, "figure": figure}
                    self.progress.history.append(row)
                    self._save()
                    progress.update(task, note=f"loss {loss:.3f}  figure {figure:.3f}")
                    sums[:] = 0
                progress.advance(task)
        self._save()

    def _save(self) -> None:
        state = {
            "modules": {name: m.state_dict() for name, m in self.modules.items()},
            "optimisers": [o.state_dict() for o in self.optimisers],
            "progress": vars(self.progress),
        }
        with open_atomic(self._path) as file:
            torch.save(state, file)

    def _resume(self) -> None:
        state = torch.load(self._path, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.progress = Progress(**state["progress"])


def write_facts(path: Path, **stages: Stage) -> None:
    """Write the facts of a training: steps, images, times, losses, versions."""
    facts: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "open_clip": open_clip.__version__,
            "timm": timm.__version__,
        },
        "stages": {
            name: {
                "steps": stage.progress.step,
                "images": stage.progress.step * BATCH,
                "seconds": round(stage.progress.seconds),
                "cpu_minutes": round(stage.progress.cpu_seconds / 60, 1),
                "history": stage.progress.history,
            }
            for name, stage in stages.items()
        },
    }
    text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
    write_atomic(path, text.encode())
