"""Finds the images of a folder that no card describes, with their labels and splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from compatbench.data.images.dataset_files import inside, read_lines
from compatbench.data.layouts.classes import CLASS_NAMES
from compatbench.data.layouts.layouts import EXTENSIONS, read_shard
from compatbench.data.layouts.parquet import hub_class_names, read_parquet_labels
from compatbench.data.layouts.tables import PARQUET, TAR, Row, read_csv
from compatbench.errors import CompatbenchError
from compatbench.messages import count

LISTS = (".csv", ".tsv")
# Beside CLIP_benchmark's shards: prompts with {c} for the class, and what the dataset is for.
TEMPLATES, TYPE = "zeroshot_classification_templates.txt", "dataset_type.txt"
PLAIN = "a photo of a {}."  # the zero-shot prompt, wherever it stands among the prompts
# What people call the columns of a list and the splits, in small letters.
PATHS = ["path", "file", "filename", "file_name", "filepath", "file_path"]
PATHS += ["image", "image_path", "img"]
LABELS = ["label", "class", "classname", "class_name", "category", "target", "species"]
SPLIT = ["split", "subset", "set", "partition"]
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val"}
SPLIT_NAMES |= {"validation": "val", "dev": "val", "test": "test", "testing": "test"}
SPLIT_NAMES |= {"eval": "test"}


@dataclass
class Found:
    """What is in a folder: an image in each row, with its split if something tells it."""

    kind: str  # in words
    folder: Path  # that the rows' paths are relative to
    rows: list[Row]
    names: dict[str, str] = field(default_factory=dict)  # of labels, where the data has them
    notes: list[str] = field(default_factory=list)  # what a user should know, a line each
    templates: list[str] = field(default_factory=list)  # prompts that the data brings, with {}


def find_images(place: Path, ignore: Path | None = None) -> Found:
    """The images of a folder, of a list, of a tar shard or of a parquet file; none is opened.

    Args:
        ignore: a list that an earlier call has led to.

    Raises:
        CompatbenchError: no labelled image, a name that cannot be printed, a link that leads
            out of the folder, or a broken file.
    """
    if not place.exists():
        raise CompatbenchError(f"there is no folder or file {place}")
    if place.is_dir():
        folder, files = place, list(_walk(place))
        tables = [name for name in files if "/" not in name and name.lower().endswith(LISTS)]
        tables = [name for name in tables if place / name != ignore and _columns(place / name)]
        if len(tables) > 1:
            lists = " and ".join(tables)
            raise CompatbenchError(f"{place} has several lists, {lists}; give the path of one")
    else:
        folder, files = place.parent, [place.name]
        tables = [place.name] if place.suffix.lower() in LISTS else []
    kinds: tuple[tuple[str, Callable[[Path, list[str]], Found]], ...]
    kinds = ((PARQUET, _find_rows), (TAR, _find_members))
    if tables and folder / tables[0] == ignore:
        raise CompatbenchError(f"{place} would be replaced; choose another name: --name")
    if tables:
        return _read_list(folder / tables[0])
    for ending, find in kinds:
        if chosen := [name for name in files if name.lower().endswith(ending)]:
            found = find(folder, chosen)
            if not found.rows:
                raise CompatbenchError(f"{place} holds no image with a label")
            return found
    if not place.is_dir():
        raise CompatbenchError(
            f"{place}: give a folder, a list (.csv, .tsv), a tar shard (.tar, not compressed) or a "
            "parquet file"
        )
    return _find_class_folders(folder, files)


def _walk(folder: Path) -> Iterator[str]:
    """The files below a folder, with slashes, sorted; hidden files are left out."""

    def stop(error: OSError) -> None:
        raise CompatbenchError(f"{error.filename} cannot be read: {error.strerror}")

    for place, folders, files in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = PurePosixPath(Path(place).relative_to(folder).as_posix())
        for name in (*folders, *sorted(files)):
            if name.startswith("."):
                continue
            if not name.isprintable() or "\\" in name:
                raise CompatbenchError(f"{place} holds {name!r}; rename it in plain characters")
            if os.path.islink(os.path.join(place, name)):
                inside(folder, place, name)
                if name in folders:
                    raise CompatbenchError(
                        f"{place}/{name} is a link to a folder; put the folder itself there"
                    )
        yield from (str(inner / name) for name in sorted(files) if not name.startswith("."))


def _find_class_folders(folder: Path, files: Sequence[str]) -> Found:
    """``[split/]class/.../image``, perhaps below folders around all of that."""
    images = [name for name in files if name.lower().endswith(EXTENSIONS)]
    if not images:
        raise CompatbenchError(f"{folder} holds no image ({', '.join(EXTENSIONS)})")
    parts = {name: PurePosixPath(name).parts for name in images}
    deep = {name: names for name, names in parts.items() if len(names) > 1}
    if not deep:
        raise CompatbenchError(
            f"{folder} holds {len(images)} images and no class folders; sort them into a folder "
            "per class, or list them in a CSV with the columns path,label"
        )
    notes = _note_skipped(len(images) - len(deep), "images beside the folders")
    around = folder
    while len({names[0] for names in deep.values()}) == 1 and all(
        len(names) > 2 for names in deep.values()
    ):
        around /= next(iter(deep.values()))[0]
        deep = {name: names[1:] for name, names in deep.items()}
    first = {names[0] for names in deep.values()}
    splits = {name for name in first if name.lower() in SPLIT_NAMES}
    if "train" in {SPLIT_NAMES[name.lower()] for name in splits} and len(first) > 1:
        if extra := sorted(first - splits):
            raise CompatbenchError(
                f"{folder}: beside {' and '.join(sorted(splits))} lies '{extra[0]}', which is no "
                "split; remove it, or give the folder of the classes"
            )
        if flat := [name for name, names in deep.items() if len(names) < 3]:
            raise CompatbenchError(f"{folder}: {flat[0]} is in no class folder; sort it into one")
        rows = [Row(p, names[1], SPLIT_NAMES[names[0].lower()]) for p, names in deep.items()]
        return Found("class folders with splits", folder, rows, notes=notes)
    beside = (one.name for one in around.iterdir() if one.is_dir() and one.name not in first)
    if empty := sorted(name for name in beside if not name.startswith(".")):
        notes.append(f"folders without an image are no classes: {', '.join(empty)}")
    rows = [Row(name, names[0]) for name, names in deep.items()]
    return Found("class folders", folder, rows, notes=notes)


def _note_skipped(count: int, what: str) -> list[str]:
    return [f"{count:,} {what} skipped"] if count else []


def _columns(path: Path) -> tuple[str, str, str] | None:
    """The columns of paths, labels and splits of a list; None if it has no paths and labels."""
    try:
        header = next(read_csv(path))[1]
    except CompatbenchError:
        return None
    names = {name.lower(): name for name in header}
    path_, label, split = (
        next((names[one] for one in known if one in names), "") for known in (PATHS, LABELS, SPLIT)
    )
    return (path_, label, split) if path_ and label else None


def _read_list(path: Path) -> Found:
    """A CSV of paths, relative to its folder, and labels; the split is a third column, if any."""
    columns = None
    rows, seen = [], dict[str, int]()
    for line, values in read_csv(path):
        columns = columns or _columns(path)
        if columns is None:
            raise CompatbenchError(
                f"{path}:1: the columns are {','.join(values)}; call that of the images 'path' and "
                "that of their classes 'label'"
            )
        image, label, split = (values.get(name, "") for name in columns)
        where = f"{path}:{line}"
        image = str(PurePosixPath(image))
        if image.startswith("/") or ".." in PurePosixPath(image).parts or "\\" in image:
            raise CompatbenchError(
                f"{where}: {image!r} is not a path below the list's folder, {path.parent}; make it "
                "one, or put the list there"
            )
        if not label or not label.isprintable() or not image.isprintable():
            raise CompatbenchError(f"{where}: label {label!r} of {image!r} is not a class's name")
        if not inside(path.parent, image).is_file():
            raise CompatbenchError(f"{where}: there is no file {path.parent / image}")
        if (before := seen.setdefault(image, line)) != line:
            raise CompatbenchError(f"{where}: {image!r} is in line {before}, too; drop one")
        if columns[2] and split.lower() not in SPLIT_NAMES:
            raise CompatbenchError(f"{where}: split {split!r} is none of {', '.join(SPLIT_NAMES)}")
        rows.append(Row(image, label, SPLIT_NAMES.get(split.lower(), "")))
    return Found(f"the list {path.name}", path.parent, rows)


def _split_of(path: str) -> str:
    """The split that the path of a shard names: ``train/0.tar``, ``data/train-00000-of-2``."""
    for part in reversed(PurePosixPath(path.lower()).with_suffix("").parts):
        for word in part.replace("_", "-").replace(".", "-").split("-"):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return ""


def _find_members(folder: Path, shards: Sequence[str]) -> Found:
    """Tar shards in which an image ``x.jpg`` has its label, a number, in ``x.cls``."""
    if (kind := inside(folder, TYPE)).exists() and (said := " ".join(read_lines(kind))):
        what = "a task needs one class for every image, or a card with captions (docs/cards.md)"
        raise CompatbenchError(f"{kind} says '{said}'; {what}")
    rows = [
        Row(one.id, str(one.label), _split_of(shard))
        for shard in sorted(shards, key=_by_number)
        for one in read_shard(folder, shard)
    ]
    names = inside(folder, CLASS_NAMES)
    titles = read_lines(names) if names.exists() else []
    if titles and rows and (most := max(int(row.label) for row in rows)) >= len(titles):
        raise CompatbenchError(f"{names} has {len(titles)} names, but label {most} occurs")
    found = Found(count(len(shards), "tar shard"), folder, rows)
    found.names = {str(label): title for label, title in enumerate(titles)}
    if (prompts := inside(folder, TEMPLATES)).exists():
        lines = [line.replace("{c}", "{}") for line in read_lines(prompts)]
        found.templates = sorted(lines, key=lambda line: line != PLAIN)
        found.notes.append(f"{len(lines):,} prompts of {TEMPLATES} are taken")
    return found


def _find_rows(folder: Path, files: Sequence[str]) -> Found:
    """Parquet files of the Hub's kind: ``image`` with ``bytes``, and ``label``."""
    rows: list[Row] = []
    found = Found(count(len(files), "parquet file"), folder, rows)
    told = hub_class_names(folder)
    for name in sorted(files):
        labels, titles = read_parquet_labels(inside(folder, name))
        if all(label is None or label == -1 for label in labels):
            found.notes.append(f"{name} has no labels and is skipped")
            continue
        found.names |= {str(label): title for label, title in enumerate(titles or told)}
        for number, label in enumerate(labels):
            if label is None or label == -1 or not str(label).isprintable():
                raise CompatbenchError(
                    f"{folder / name}: label {label!r} of row {number} is not a class's name"
                )
            rows.append(Row(f"{name}/{number}", str(label), _split_of(name)))
    return found


def _by_number(shard: str) -> tuple[str, int, str]:
    """``9.tar`` is before ``10.tar``."""
    path = PurePosixPath(shard)
    return str(path.parent), int(path.stem) if path.stem.isdecimal() else -1, path.stem
