"""Command line: ``python -m compatbench.tasks.mini.build STEP --work DIR``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

# Module and function of each step, in order; imported late, because some need torch.
STEPS = {
    "fetch": ("fetch", "fetch"),
    "render": ("render", "render"),
    "corpus": ("names", "write_table"),
    "tokenizer": ("tokenizer", "write_tokenizer"),
    "tasks": ("tasks", "write_tasks"),
    "source": ("source", "train_source"),
    "target": ("target", "train_target"),
    "anew": ("target", "train_anew"),
    "next": ("source", "train_next"),
    "other": ("source", "train_other"),
    "models": ("manifest", "copy_models"),
    "report": ("report", "report"),
    "manifest": ("manifest", "write_manifest"),
}
TORCH_STEPS = ("source", "target", "anew", "next", "other", "report")
# Read the finished suite, or its results, and change neither, so they are no part of ``all``.
EXTRA_STEPS = {
    "contact": ("contact", "write_contact_sheets"),
    "likeness": ("likeness", "write_likeness"),
}


def step_function(step: str) -> Callable[[Path], None]:
    module, function = (STEPS | EXTRA_STEPS)[step]
    return getattr(import_module(f".{module}", __package__), function)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m compatbench.tasks.mini.build",
        description="Builds the mini suite. Each step goes on where an earlier run stopped.",
    )
    parser.add_argument("step", choices=[*STEPS, *EXTRA_STEPS, "all"])
    parser.add_argument("--work", type=Path, default=Path("mini-build"), help="working folder")
    parser.add_argument("--threads", type=int, default=1, help="threads inside one operation")
    arguments = parser.parse_args()
    if arguments.step in (*TORCH_STEPS, "all"):
        import torch

        torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for step in STEPS if arguments.step == "all" else [arguments.step]:
        step_function(step)(arguments.work.resolve())


if __name__ == "__main__":
    main()
