"""``task``: make a task of images that are in memory.

The images are stored once, without loss, in files that are named after their content. From then on
they are an ordinary task: all other code finds its card by name.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard, task_cards
from compatbench.data.layouts.live_images import (
    ImageSet,
    as_rgb,
    choose_names,
    number_of,
    open_sets,
)
from compatbench.data.new_task import NewTask, name_task, new_task
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import sha256_bytes, sha256_json
from compatbench.files.project_folders import forget_own_place
from compatbench.messages import can_show_bar, count

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_SUITE = "mini"  # of ``run`` and ``plan``, if the task has no suite
FOLDER = "tasks"  # in the cache
IMAGES = "images"  # in that folder: the images of all tasks
_DIGITS = 32  # of the hash in the name of an image's file
_NAME_DIGITS = 8  # of the hash in the name of a task
_FASTEST = 1  # compression of PNG


class StoredTask(str):
    """A task of ``cb.task``: its name, which is accepted wherever the name of a task is.

    Attributes:
        made: what ``new_task`` has made: card, suite, counts and notes.
    """

    made: NewTask

    @property
    def suite(self) -> str:
        """Return the name of the suite that measures the upgrade on this task."""
        return self.made.suite.stem

    @property
    def frame(self) -> pd.DataFrame:
        """Return a row per class: ``class``, and its images by split."""
        return self.made.frame

    def __repr__(self) -> str:
        parts = []
        for split, images in self.made.images.items():
            if images:
                parts.append(f"{split} {images.total():,}")
        classes = f"{len(self.made.task.classes)} classes"
        return f"<Task '{self}': {classes}, images: {', '.join(parts)}; shots: {self.made.shots}>"


def task(
    images: Any,
    labels: Any = None,
    names: Sequence[str] | None = None,
    *,
    name: str | None = None,
    source: str = "mini-clip",
    target: str | Sequence[str] = "mini-eva-clip",
    shots: int | None = None,
    seed: int = 1,
    test_share: float | None = None,
    template: Sequence[str] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> StoredTask:
    """Make a task of images that are in memory.

    The images are stored as PNG files under the hash of their pixels. The same images are stored
    once. With the same settings, they give the same task.

    Args:
        images: a list of PIL images or of arrays of bytes (height × width × 3); a dataset of torch
            with pairs (image, label) and without a transform; or a dataset of the library
            ``datasets``. Or one of these for each split: ``{"train": ..., "test": ...}``.
        labels: for lists: the number or name of each image's class; by split if the images are.
        names: names of the classes, in the order of their numbers; by default those of the data.
        name: the task's name; by default ``task-`` with a hash of its images, classes, ``seed``,
            ``shots``, ``test_share`` and ``template``.
        source, target, shots, seed, test_share, template: as for ``new_task``, which draws the test
            images if no split is given, and makes a suite of the upgrade.
        out: the folder for the cards and the images; by default in the cache. The cards are written
            again at each call.
        progress: show how many images are stored, on a terminal and in a notebook.

    Returns:
        The name of the task, for ``fit``, ``evaluate``, ``advise``, ``run(tasks=...)`` and all
        others. ``frame`` counts its images, and ``suite`` is its suite.

    Raises:
        CompatbenchError: images and labels do not fit together, or nothing can be learned from
            them, as for ``new_task``.
    """
    sets = open_sets(images, labels)
    class_names = choose_names(names, sets)
    root = default_cache_folder() / FOLDER if out is None else Path(out).expanduser()
    root = root.absolute()
    folder = root / IMAGES
    places = _store(sets, class_names, folder, progress)
    _check_classes(places, class_names)
    rows = sorted(places)
    digest = sha256_json([rows, class_names])
    # Modules must not be tested on images that they were trained on, so that another draw is
    # another task.
    draw = f"{seed} {shots} {test_share}"
    identity = sha256_json([digest, draw, list(template or ())])
    name = name_task(name or f"task-{identity[:_NAME_DIGITS]}", folder)
    # In the cache, each name has a folder, so that it can get other images.
    cards = root if out is not None else root / f"{name}-{identity[:_NAME_DIGITS]}"
    _forget_earlier(name, root, cards)
    listed = folder / f"{digest[:_DIGITS]}.csv"
    lines = ["path,label,split"]
    for path, label, split in rows:
        lines.append(f"{path},{label},{split}")
    if not any(each.split for each in sets):
        lines = [line.rpartition(",")[0] for line in lines]
    write_atomic(listed, "\n".join([*lines, ""]).encode())
    named = listed.with_suffix(".txt")
    write_atomic(named, "\n".join([*class_names, ""]).encode())
    made = new_task(
        listed,
        name,
        source=source,
        target=target,
        shots=shots,
        seed=seed,
        test_share=test_share,
        template=template,
        class_names=named,
        out=cards,
        replace=True,
    )
    given = {path: where for (path, _, _), where in places.items()}
    for problem in made.problems:
        _warn(_name_images(problem, given))
    if all(re.fullmatch("n?[0-9]+", each) for each in class_names):
        _warn("the class names are numbers, which mean nothing to the text tower; give names")
    stored = StoredTask(name)
    stored.made = made
    return stored


Places = dict[tuple[str, int, str], str]  # path, label and split, with the argument of each image


def _store(sets: Sequence[ImageSet], names: Sequence[str], folder: Path, progress: bool) -> Places:
    """Write the images that are not there yet, and return where each of them comes from."""
    places: Places = {}
    again = 0
    total = sum(each.length or 0 for each in sets)
    with _show_progress(progress, total) as step:
        for each in sets:
            for number, (value, label) in enumerate(each.read()):
                where = f"{each.where}[{number}]"
                image = as_rgb(value, where)
                label = number_of(label, names, where)
                # The same image may have two labels, or be in two splits.
                ending = "-".join(filter(None, [str(label), each.split]))
                digest = sha256_bytes(f"{image.size} ".encode() + image.tobytes())[:_DIGITS]
                path = f"{digest[:2]}/{digest}-{ending}.png"
                row = (path, label, each.split)
                again += row in places
                places.setdefault(row, where)
                if not (folder / path).is_file():
                    _write_image(folder / path, image)
                step()
    if again:
        _warn(f"{count(again, 'image')} given twice with the same label; each is used once")
    return places


def _write_image(path: Path, image: Image.Image) -> None:
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=_FASTEST)
    write_atomic(path, content.getvalue())


def _check_classes(places: Places, names: Sequence[str]) -> None:
    """Raise CompatbenchError if a class has no images to train on, or none to test on."""
    images = Counter((label, split) for _, label, split in places)
    splits = {split for _, split in images}
    for number, name in enumerate(names):
        total = sum(images[number, split] for split in splits)
        if not total:
            fix = "add some, or leave the class out"
            raise CompatbenchError(f"class {number}, '{name}', has no image; {fix}")
        if total == 1 and len(splits) == 1:
            raise CompatbenchError(
                f"class {number}, '{name}', has one image; it needs one to train on and one to "
                "test on"
            )
    if splits in ({""}, {"train"}):  # test images are drawn
        return
    tests = "val" if splits == {"train", "val"} else "test"
    for split in ("train", tests):
        if split not in splits:
            found = ", ".join(sorted(splits))
            raise CompatbenchError(f"images has no split '{split}', only {found}; add it")
        for number, name in enumerate(names):
            if not images[number, split]:
                problem = f"class {number}, '{name}', has no image in the split '{split}'"
                raise CompatbenchError(f"{problem}; add some, or leave the class out")


def _forget_earlier(name: str, root: Path, cards: Path) -> None:
    """Forget the task of this name that an earlier call has made of other images."""
    earlier = task_cards.own_folder(name)
    if earlier is not None and earlier != cards and earlier.parent == root:
        forget_own_place(earlier)


def _name_images(text: str, given: Mapping[str, str]) -> str:
    """Return a text with the arguments that images come from, in place of their files."""
    return re.sub(r"\w\w/[\w-]+\.png", lambda found: given.get(found[0], found[0]), text)


def _warn(text: str) -> None:
    warnings.warn(text, CompatbenchWarning, stacklevel=3)


def choose_suite(suite: str | SuiteCard | None, tasks: str | Sequence[str]) -> str | SuiteCard:
    """Return the given suite, or else that of a task just made, or else the default.

    Raises:
        CompatbenchError: there are several tasks, each with a suite.
    """
    if suite is not None:
        return suite
    listed = tasks if isinstance(tasks, (list, tuple)) else [tasks]
    own = [each for each in listed if isinstance(each, (StoredTask, NewTask))]
    if not own:
        return DEFAULT_SUITE
    if len(listed) > 1:
        raise CompatbenchError(
            "tasks: a task of cb.task or cb.new_task has a suite of its own; run one at a "
            "time, or write a suite with all of them (docs/cards.md)"
        )
    return str(own[0].suite)


@contextmanager
def _show_progress(enabled: bool, total: int) -> Iterator[Callable[[], object]]:
    """Show a bar on a terminal and in a notebook. Each call of the yielded function is a step."""
    console = Console(stderr=True)
    shown = enabled and can_show_bar(console)
    with Progress(console=console, transient=True, disable=not shown) as bar:
        images = bar.add_task("storing images", total=total or None)
        yield lambda: bar.advance(images)
