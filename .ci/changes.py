"""Print, as a Markdown table, what each file that a branch changes can affect.

python .ci/changes.py                       # against origin/main
python .ci/changes.py main                  # against another branch
python .ci/changes.py --methods             # print only the names of the methods to check
python .ci/changes.py --adds-only-methods   # print adds_only_methods=yes, or =no

Nothing of the branch is run. The exit code is 1 if the branch adds a method and changes anything
but the files of that method, if it reports rows of real models and changes anything but these and
the pages that show them, or if it adds a link.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

# The first match counts; "*" stands for folders, too. Whatever matches nothing may be run by CI.
EFFECTS = (
    ("how others are ranked", ("benchmark/compatbench/*", "formats/*", "methods/_shared/*")),
    ("how others are ranked", ("leaderboard.md", "results/*", "tasks/*", "transfers/*")),
    ("methods", ("methods/*",)),
    ("what CI runs", (".ci/*", ".github/workflows/*", "*.py", "*.ipynb", "*.sh")),
    ("text", ("*.md", "docs/*", ".github/*", "CITATION.cff", "LICENSE")),
)
METHOD = re.compile(r"methods/([a-z][a-z0-9_]*)\.py")
# The file beside rows of real models that names who measured them ('compatbench maintain submit').
REPORTED = re.compile(r"results/([a-z0-9][a-z0-9-]*)/reported\.json")
PAGES = ("leaderboard.md", "README.md", "docs/methods/*", "results/figures/*", "results/report/*")
DATA = "csv", "json", "safetensors", "txt"  # that a method may have beside it, under its name


def git(*arguments: str) -> str:
    """Return what a git command prints."""
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def find_changes(base: str) -> dict[str, str]:
    """Return each changed path, committed or not, and its kind: A if it was added."""
    start = git("merge-base", base, "HEAD").strip()
    fields = git("diff", "--no-renames", "--name-status", "-z", start).split("\0")[:-1]
    changes = dict(zip(fields[1::2], fields[0::2], strict=True))
    for path in git("ls-files", "--others", "--exclude-standard", "-z").split("\0")[:-1]:
        changes[path] = "A"
    return dict(sorted(changes.items()))


def effect_of(path: str, reported: Collection[str] = ()) -> str:
    """Return what a changed file can affect.

    Args:
        reported: folders with rows of real models that the branch reports.
    """
    if any(path.startswith(folder) for folder in reported):
        return "reported rows"
    for effect, patterns in EFFECTS:
        if any(fnmatchcase(path, pattern) for pattern in patterns):
            return effect
    return "what CI runs"


def find_reported(changes: dict[str, str]) -> list[str]:
    """Return the folders with rows of real models that the branch reports."""
    return [path.rpartition("/")[0] + "/" for path in changes if REPORTED.fullmatch(path)]


def find_methods(changes: dict[str, str]) -> list[str]:
    """Return the methods whose file changes, or which read a changed file, directly or not."""
    files = [path for path in sorted(Path("methods").rglob("*.py")) if not path.is_symlink()]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in files}
    touched = {Path(path) for path in changes if path.startswith("methods/")}
    ahead = sorted(touched)
    while ahead:
        changed = ahead.pop()
        stem = re.escape(changed.stem)
        name = re.escape(changed.name)
        reads = re.compile(rf"(?m)^\s*(from|import) .*\b{stem}\b|[\"']{name}[\"']")
        reading = [path for path in files if path not in touched and reads.search(texts[path])]
        touched.update(reading)
        ahead += reading
    matches = [METHOD.fullmatch(path.as_posix()) for path in files if path in touched]
    return [match[1] for match in matches if match]


def find_added(changes: dict[str, str]) -> set[str]:
    """Return the methods whose file the branch adds."""
    matches = [METHOD.fullmatch(path) for path, kind in changes.items() if kind == "A"]
    return {match[1] for match in matches if match}


def find_problems(changes: dict[str, str]) -> list[str]:
    """Return why the branch cannot be merged as it is."""
    links = [path for path in changes if Path(path).is_symlink()]
    problems = [f"{path} is a link; add the file itself" for path in links]
    added = find_added(changes)
    own = set()
    for name in added:
        own |= {f"methods/{name}.py", f"tests/methods/formulas/{name}.py"}
        own |= {f"methods/{name}.{suffix}" for suffix in DATA}
    for path, kind in changes.items():
        if added and (path not in own or kind != "A"):
            problems.append(
                f"{path} can affect {effect_of(path)}; a pull request that adds a method has only "
                "methods/NAME.py, tests/methods/formulas/NAME.py, and data as methods/NAME.json"
            )
    reported = find_reported(changes)
    for path in changes:
        effect = effect_of(path, reported)
        if not reported or effect == "reported rows" or any(fnmatchcase(path, p) for p in PAGES):
            continue
        problems.append(
            f"{path} can affect {effect}; a pull request that reports rows has only their folder "
            "below results/ and the pages that 'compatbench maintain submit' names"
        )
    return problems


def show(path: str) -> str:
    """Return a path without characters that mean something in Markdown or to a terminal."""
    return "`" + re.sub(r"[^\w./+-]", "?", path, flags=re.ASCII) + "`"


def main() -> int:
    """Print the table, or what an option asks for instead; return the exit code."""
    parser = argparse.ArgumentParser(description="Print what a branch can affect.")
    parser.add_argument("base", nargs="?", default="origin/main")
    parser.add_argument("--methods", action="store_true", help="print only names of methods")
    parser.add_argument(
        "--adds-only-methods",
        action="store_true",
        help="print adds_only_methods=yes if the branch adds methods and changes nothing else",
    )
    options = parser.parse_args()
    changes = find_changes(options.base)
    if options.adds_only_methods:
        adds_only_methods = find_added(changes) and not find_problems(changes)
        print(f"adds_only_methods={'yes' if adds_only_methods else 'no'}")
        return 0
    if options.methods:
        print(",".join(find_methods(changes)))
        return 0
    print("| changed file | can affect |\n| --- | --- |")
    reported = find_reported(changes)
    effects = {path: effect_of(path, reported) for path in changes}
    for path in sorted(changes, key=lambda path: (effects[path], path)):
        print(f"| {show(path)} | {effects[path]} |")
    problems = find_problems(changes)
    for problem in problems:
        print(re.sub(r"[^ -~]", "?", problem), file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
