"""``compatbench store data shots``: few-shot draws as files that two labs can share."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from compatbench.cli.output import say
from compatbench.errors import CompatbenchError


def export_shots(
    task: str,
    shots: int = 16,
    seed: int = 1,
    out: Path | None = None,
    compare: Path | None = None,
    read: Path | None = None,
) -> int:
    """Exports a few-shot draw, computed from the task's split as CoOp's code does.

    The file lists each image's path and label, and the hash of the split that they were drawn
    from. 'compatbench run --shots-file FILE' trains on the images of a file, so that two labs use
    the same ones even if their folders would give other draws.

    Args:
        task: The task to draw from.
        shots: Images of every class.
        seed: Seed of the draw.
        out: File to write; by default the draw is printed.
        compare: Another lab's file: is it the same draw?
        read: Instead of drawing, read a draw of other code: CoOp's shot_K-seed_S.pkl, in which
            nothing is run, or 2SFS's shot_K-seed_S_train.jsonl with its _val.jsonl.
    """
    from compatbench.data.draws import draw_shots, export_draw
    from compatbench.data.foreign_draws import read_foreign_draw
    from compatbench.data.task import load_task
    from compatbench.files.atomic import write_atomic

    loaded = load_task(task)
    if loaded.parent is not None:
        raise CompatbenchError(
            f"'{task}' is a variant, from which nothing is learned; draw from '{loaded.parent}'"
        )
    if read is None:
        draw = draw_shots(loaded, shots, seed)
    else:
        draw = read_foreign_draw(read, loaded, shots, seed)
    about = f"{len(draw.train)} training and {len(draw.val)} validation images, {draw.sha256[:12]}"
    if compare is not None:
        theirs = draw_shots(loaded, shots, seed, compare)
        if theirs != draw:
            hashes = f"{theirs.sha256[:12]}, here {draw.sha256[:12]}"
            say(escape(f"{compare} is another draw ({hashes}), of images that are all here"))
            return 1
        say(escape(f"{compare} is the same draw: {about}"))
    elif out is None:
        print(export_draw(loaded, draw, shots, seed), end="")  # the console would wrap it
    else:
        write_atomic(out, export_draw(loaded, draw, shots, seed).encode())
        say(escape(f"wrote {out}: {about}"))
    return 0
