"""``compatbench study index`` and ``retrieve``, and ``module port`` of a stored index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from compatbench.cli import modules
from compatbench.cli.command import Call
from compatbench.cli.output import print_frame, print_json, say, show_table
from compatbench.cli.stoppable import stoppable
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.extras.indexes.index_port import PortedIndex

# Options of ``module port`` that are for modules alone, and those that are for indexes alone.
OF_MODULES = {"methods": "--methods"}
OF_INDEXES = {name: f"--{name}" for name in ("source", "images", "pairs", "column")}


def measure(call: Call) -> None:
    """Shows every way with the most pairs, and the verdict."""
    measured = call()
    if not call.prints_json(measured):
        show_table(measured.table())
        say(escape(str(measured)))


def retrieve(call: Call) -> None:
    """Adds the rows to those of the suite, and shows the recall over all images."""
    from compatbench.extras.indexes.retrieval_files import POOLED

    measured = call()
    path = measured.save(call.shell["out"])
    if call.shell["as_json"]:
        print_json({"rows": measured.frame, "about": measured.about})
        return
    pooled = measured.frame.loc[measured.frame["gallery"] == POOLED]
    left_out = ["source", "gallery", "images", "asked", "seeds"]
    print_frame(pooled.drop(columns=left_out).round(1))
    say(escape(f"wrote {path}; over all {pooled['images'].max():,} images, in percent"))


def port(call: Call) -> None:
    """Ports a module as the core does, or an index."""
    from compatbench.extras.indexes.vector_files import is_vector_file

    path = call.arguments["module"]
    of_an_index = is_vector_file(path)
    unfit = OF_MODULES if of_an_index else OF_INDEXES
    values = call.arguments | call.shell | call.shell["index"]
    if wrong := [option for name, option in unfit.items() if values[name] is not None]:
        why = f"indexes, and {path} is none (.npy, .parquet, flat .faiss)"
        if of_an_index:
            why = f"modules, and {path} is an index"
        raise CompatbenchError(f"{wrong[0]} is for {why}")
    if not of_an_index:
        modules.port(call)
        return
    if values["source"] is None:
        raise CompatbenchError(f"{path} is an index: give the model that made it with --source")
    if values["images"] is not None and values["pairs"] is not None:
        raise CompatbenchError("--images and --pairs: give one of the two")
    arguments = {name: values[name] for name in ("out", "column", "device", "source")}
    arguments["images"] = values["pairs"] or values["images"]
    arguments |= {"index": path, "target": values["backbone"], "way": values["transfer"]}
    with stoppable("no index was written"):
        ported = Call("port_index", arguments, reports=frozenset({"progress"}))()
    print_ported(ported)


def print_ported(ported: PortedIndex) -> None:
    """What became of an index, and what to expect of it."""
    if ported.way == "copied":
        say(escape(f"nothing to write: {ported.path} has the new model's width and stays as it is"))
    else:
        rate = ported.rows / max(ported.seconds, 1e-9)
        what, of = ("images", f", {ported.images:,} images") if ported.images else ("words", "")
        say(escape(f"wrote {ported.path}: {ported.rows:,} × {ported.new_width}, {ported.dtype}"))
        say(escape(f"  by {ported.way}{of}; {rate:,.0f} vectors/s"))
        say(
            f"  {what} left out of the fit: cosine with the new model's own {ported.cosine:.2f}, "
            f"variance left {ported.residual:.2f}"
        )
        if ported.residual is not None and ported.residual >= 1:
            say(f"  [yellow]no better than a constant[/]: too few {what}, or of other models")
    if not (expected := ported.expected):
        say(
            "This upgrade was never measured, so there is no recall to expect: try some queries, "
            "or measure it with 'compatbench study retrieve'."
        )
        return
    of = f" with {expected['pairs']:,} images" if expected["pairs"] else ""
    say(
        f"Measured{of} in suite '{escape(expected['suite'])}', on {expected['images']:,} images of "
        "its tasks; yours may differ:"
    )
    for queries, recall in expected["ported"].items():
        again = expected["re-encoded"][queries]
        say(
            f"  {queries} asked for: Recall@10 {recall['recall@10']}, mAP {recall['map']}; "
            f"encoded again {again['recall@10']} and {again['map']}"
        )
