"""``compatbench new-method``, ``check`` and ``tune``: for those who write a method."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.text import Text

from compatbench.cli.output import console, print_frame, say
from compatbench.cli.run import stoppable
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.kinds import require_new

STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow"}
WORDS = {"pass": "passed", "fail": "failed", "skip": "skipped"}
_TEMPLATE = Path(__file__).with_name("new_method.py.txt")


def new_method(name: str) -> None:
    """Write a commented method file that works as it is, to start from.

    It is written to methods/ in a checkout, and to the current folder elsewhere.

    Args:
        name: The method's name, such as 'my_method'.
    """
    from compatbench.method.registry import builtin_methods

    if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", name) or keyword.iskeyword(name):
        raise CompatbenchError(
            f"'{name}' cannot be a method's name; use small letters, digits and '_', a letter "
            "first, as in 'my_method'"
        )
    registry, checkout = builtin_methods(), find_checkout(Path.cwd())
    if name in registry.classes or name in registry.broken:
        raise CompatbenchError(f"a method is named '{name}' already; choose another name")
    if not checkout and find_spec(name) is not None:
        raise CompatbenchError(
            f"a file {name}.py would hide the module '{name}' of this Python; choose another name"
        )
    path = (checkout / "methods" if checkout else Path()) / f"{name}.py"
    require_new(path, "choose another name")
    write_atomic(path, fill_template(name).encode())
    wanted = name if checkout else f"./{path}"
    shown = path.relative_to(checkout) if checkout else path
    say(escape(f"wrote {shown}: a method that works; make it yours"))
    say(f"  compatbench check {wanted}")
    say(f"  compatbench run --suite smoke --methods {wanted}")


def find_checkout(folder: Path) -> Path | None:
    """The repository's root, if a folder is it or lies in it."""
    files = ("methods/__init__.py", "benchmark/compatbench/__init__.py")
    for root in (folder, *folder.parents):
        if all((root / file).is_file() for file in files):
            return root
    return None


def fill_template(name: str) -> str:
    """The text of a new method file."""
    title = " ".join(word.capitalize() for word in name.split("_") if word)
    text = _TEMPLATE.read_text(encoding="utf-8").replace("NAME", name).replace("TITLE", title)
    return text.replace("CLASS", title.replace(" ", ""))


def are_transfers(wanted: str) -> bool:
    """Whether names, or a file, are those of transfers."""
    from compatbench.method.registry import builtin_transfers

    parts = [part.strip() for part in wanted.split(",")]
    if len(parts) == 1 and parts[0].endswith(".py") and Path(parts[0]).is_file():
        return "TransferCard(" in Path(parts[0]).read_text(encoding="utf-8", errors="replace")
    return all(part in builtin_transfers().names() for part in parts)


def check(methods: str, only: str = "all") -> None:
    """Check that a method, or a transfer, follows the rules, on tiny models; exit with 1 if not.

    Fits are cut to a few steps, so that a method takes seconds on one core. For one method the
    output is a table of its checks; for several, one line each, and their failures at the end.

    Args:
        methods: What to check: a name, a glob, 'all', a comma list with exclusions, or the path
            of a method file ('./mine.py'), which is run as code. Names of transfers (see 'list
            transfers'), or the file of one, are checked by the rules of transfers.
        only: Checks to run: names, globs, exclusions.
    """
    import pandas as pd

    import compatbench as api

    with console.status("") as status:
        check_all = api.check_transfers if are_transfers(methods) else api.check_methods
        found = check_all(
            methods, only, progress=lambda one: status.update(f"{one.method}: {one.check}")
        )
    failed, names = found["status"] == "fail", found["method"].unique()
    alone = len(names) == 1
    # A check that is passed is shown with its rule, another with its reason.
    rules = found["rule"] + found["reason"].map(lambda reason: f" ({reason})" if reason else "")
    shown = {
        "": [Text(status, style=STYLES[status]) for status in found["status"]],
        "rule, or reason": found["reason"].where(found["status"] != "pass", rules),
        "seconds": found["seconds"].round(1),
    }
    lines = found[["check"] if alone else ["method", "check"]].assign(**shown)
    if alone or failed.any():
        print_frame(lines if alone else lines.loc[failed])
    counts = pd.crosstab(found["method"], found["status"]).reindex(names)
    counts = counts.reindex(columns=list(STYLES), fill_value=0).rename(columns=WORDS)
    counts["seconds"] = found.groupby("method")["seconds"].sum()
    print_frame(counts.round({"seconds": 1}).reset_index())
    good = len(names) - found.loc[failed, "method"].nunique()
    what = "transfers" if check_all is api.check_transfers else "methods"
    say(f"{good} of {len(names)} {what} pass")
    if failed.any():
        raise typer.Exit(1)


def tune(
    methods: str,
    suite: str = "mini",
    out: Path = Path(),
    data_root: list[str] | None = None,
    jobs: int | None = None,
    device: str = "auto",
    offline: bool = False,
) -> None:
    """Choose a method's rate and steps for a suite, on training images of development tasks.

    The suite's card says which tasks, rates and steps ('tuning'): the same for every method. Each
    setting is fitted on three quarters of a few-shot draw and tested on the remaining quarter, on
    the source model; no test image and no target is used. The best setting is chosen, unless its
    gain over the recipe's own is no larger than the standard error of that gain.

    The first line says how long it takes. Stop at any time; the same command continues. The last
    lines are for the suite's file. A record is written to results/<suite>/tuning/; add it to the
    method's pull request, or the leaderboard marks the method as not tuned.
    """
    import yaml

    with stoppable():
        import compatbench as api
        from compatbench.cli.progress import RunProgress

        with RunProgress(console) as progress:
            found = api.tune(
                methods,
                suite,
                out=out,
                compute=api.Compute(device=device, jobs=jobs),
                on_start=progress.announce_plan,
                on_event=progress.on_event,
            )
        entries: dict[str, Any] = {}
        for one in found:
            say(f"[bold]{escape(one.method)}[/], {sum(one.total):,} held-out images, in percent")
            frame, best = one.frame, one.chosen
            choice = ["chosen" if number == best else "" for number in frame.index]
            print_frame(frame.round({"accuracy": 1, "gain": 1, "error": 1}).assign(choice=choice))
            rate = {"recipe": {"lr": one.lr[best]}} if one.lr[best] != one.lr[0] else {}
            steps = {"max_steps": one.max_steps[best]}
            entries[one.method] = rate | (steps if one.max_steps[best] != one.max_steps[0] else {})
        say("what 'methods' of the suite says of rates and steps ({}: nothing):")
        say(escape(yaml.safe_dump(entries, sort_keys=False).rstrip()))
