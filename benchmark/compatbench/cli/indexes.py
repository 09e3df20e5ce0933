"""The commands for stored indexes: ``compatbench retrieve``, and ``port`` of an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from compatbench.cli import options
from compatbench.cli.output import console, print_frame, print_json, say
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import require
from compatbench.messages import first_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compatbench.extras.indexes.index_port import PortedIndex


def retrieve(
    suite: str = "mini",
    source: str | None = None,
    target: str | None = None,
    tasks: str = "all",
    pairs: str | None = None,
    seeds: str | None = None,
    out: Path = Path(),
    data_root: list[str] | None = None,
    device: str = "auto",
    as_json: bool = False,
    offline: bool = False,
) -> None:
    """Measure what a stored index of image embeddings is worth to a new model.

    The test images of a suite's tasks, encoded by the old model, are the galleries; the new
    model's class names, images and, where a task has them, captions are the queries. The index is
    measured as it is, ported in every way that 'port' has, and with all images encoded again. Adds
    the rows to results/retrieval/SUITE.csv, in place of older ones of the same upgrade, gallery
    and way.

    Args:
        source: The old model; by default the suite's.
        target: The new models, a comma list; by default those of the suite.
        pairs: Numbers of images that maps are fitted on; by default '64,256,1024'; '0' leaves
            out the ways that need any, for tasks without training images.
        seeds: Of the draws of these images; by default '1,2,3'.
    """
    import compatbench as api
    from compatbench.engine.gallery_rows import POOLED
    from compatbench.extras.studies.retrieval import PAIRS, SEEDS

    with console.status(""):
        found = api.retrieve(
            suite,
            source,
            target,
            tasks=tasks,
            pairs=_numbers("pairs", pairs) or PAIRS,
            seeds=_numbers("seeds", seeds) or SEEDS,
            device=device,
        )
    path = found.save(out)
    if as_json:
        print_json({"rows": found.frame, "about": found.about})
        return
    pooled = found.frame.loc[found.frame["gallery"] == POOLED]
    left_out = ["source", "gallery", "images", "asked", "seeds"]
    print_frame(pooled.drop(columns=left_out).round(1), whole=90)
    say(escape(f"wrote {path}; over all {pooled['images'].max():,} images, in percent"))


def load_pairs(pairs: tuple[Path, Path]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The vectors of the same images on both models."""
    old, new = map(_load_matrix, pairs)
    return old, new


def _load_matrix(path: Path) -> NDArray[Any]:
    from numpy.lib.format import open_memmap

    try:
        return open_memmap(require(path, follow=True), mode="r")
    except (OSError, ValueError) as error:
        why = first_line(error) if isinstance(error, OSError) else "it is no .npy file of numbers"
        raise CompatbenchError(f"--pairs: cannot read {path}: {why}; give a .npy") from None


def print_ported(found: PortedIndex) -> None:
    """What became of an index, and what to expect of it."""
    if found.way == "copied":
        say(escape(f"nothing to write: {found.path} has the new model's width and stays as it is"))
    else:
        rate = found.rows / max(found.seconds, 1e-9)
        say(escape(f"wrote {found.path}: {found.rows:,} × {found.new_width}, {found.dtype}"))
        what, of = "words", ""
        if found.images:
            what, of = "images", f", {found.images:,} images"
        say(escape(f"  by {found.way}{of}; {rate:,.0f} vectors/s"))
        say(
            f"  {what} left out of the fit: cosine with the new model's own {found.cosine:.2f}, "
            f"variance left {found.residual:.2f}"
        )
        if found.residual is not None and found.residual >= 1:
            say(f"  [yellow]no better than a constant[/]: too few {what}, or of other models")
    if not (expected := found.expected):
        say(
            "This upgrade was never measured, so there is no recall to expect: try some queries, "
            "or measure it with 'compatbench retrieve'."
        )
        return
    of = f" with {expected['pairs']:,} images" if expected["pairs"] else ""
    say(
        f"Measured{of} in suite '{escape(expected['suite'])}', on {expected['images']:,} images of "
        "its tasks; yours may differ:"
    )
    for queries, own in expected["ported"].items():
        again = expected["re-encoded"][queries]
        say(
            f"  {queries} asked for: Recall@10 {own['recall@10']}, mAP {own['map']}; "
            f"encoded again {again['recall@10']} and {again['map']}"
        )


def _numbers(name: str, text: str | None) -> tuple[int, ...]:
    parts: list[Any] = options.split(text) or []
    if wrong := [part for part in parts if not part.isdecimal() or len(part) > 9]:
        raise CompatbenchError(
            f"--{name}: '{wrong[0]}' is no number below a billion; write such as 64,256"
        )
    return tuple(map(int, parts))
