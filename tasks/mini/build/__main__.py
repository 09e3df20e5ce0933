"""Command line: ``python -m compatbench.tasks.mini.build STEP --work DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path
from pkgutil import resolve_name

import torch

# Module and function of each step, in order; imported late, because they need much else.
STEPS = {
    "fetch": "fetch:fetch",
    "render": "render:render",
    "corpus": "names:write_table",
    "tokenizer": "tokenizer:write_tokenizer",
    "tasks": "tasks:write_tasks",
    "source": "source:train_source",
    "target": "target:train_target",
    "anew": "target:train_anew",
    "next": "source:train_next",
    "other": "source:train_other",
    "models": "manifest:copy_models",
    "report": "report:report",
    "manifest": "manifest:write_manifest",
}
# Not part of ``all``: what does not ship, or reads the finished suite or its results.
EXTRA_STEPS = {
    "upgrades": "upgrades:train_upgrades",
    "contact": "contact:write_contact_sheets",
    "likeness": "likeness:write_likeness",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m compatbench.tasks.mini.build",
        description="Build the mini suite. Each step resumes where an earlier run stopped.",
    )
    parser.add_argument("step", choices=[*STEPS, *EXTRA_STEPS, "all"])
    parser.add_argument("--work", type=Path, default=Path("mini-build"), help="working folder")
    parser.add_argument("--threads", type=int, default=1, help="threads inside one operation")
    parser.add_argument(
        "--only", nargs="+", help="targets of the step upgrades, or their purposes; default: all"
    )
    arguments = parser.parse_args()
    if arguments.only and arguments.step != "upgrades":
        parser.error("--only is an option of the step upgrades")
    torch.set_num_threads(arguments.threads)
    # Of so few tokens, the fused attention's backward pass takes three times as long on a CPU.
    torch.backends.cuda.enable_flash_sdp(False)
    arguments.work.mkdir(parents=True, exist_ok=True)
    options = {"only": arguments.only} if arguments.only else {}
    for step in STEPS if arguments.step == "all" else [arguments.step]:
        function = resolve_name(f"{__package__}.{(STEPS | EXTRA_STEPS)[step]}")
        function(arguments.work.resolve(), **options)


if __name__ == "__main__":
    main()
