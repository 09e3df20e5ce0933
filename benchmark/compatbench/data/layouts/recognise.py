"""Scanning of folders and files that no card describes: recognise the layout first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from compatbench.data.cards.own_cards import look_at
from compatbench.data.images.dataset_files import inside, read_lines, reading
from compatbench.data.layouts.containers import PARQUET, TAR
from compatbench.data.layouts.listing import (
    CLASS_NAMES,
    SPLIT_NAMES,
    Listing,
    choose_columns,
    make_frame,
    read_csv,
    scan_list,
)
from compatbench.data.layouts.scanners import EXTENSIONS, is_image, scan_containers
from compatbench.errors import CompatbenchError
from compatbench.messages import count, is_or_are

MOST_SHOWN = 3  # files of a note or an error
LISTS = (".csv", ".tsv", ".jsonl")
ARROW = ".arrow"  # the files of ``save_to_disk`` of ``datasets``
# Files beside CLIP_benchmark's shards: prompts with {c} for the class, and the dataset's purpose.
TEMPLATES = "zeroshot_classification_templates.txt"
TYPE = "dataset_type.txt"
PLAIN = "a photo of a {}."  # the zero-shot prompt, at any place among the prompts


def scan(place: Path, ignore: Path | None = None) -> Listing:
    """Return the images of a folder, list, tar shard or parquet file; none is opened.

    Their labels are text. Folders, files or a column name the splits.

    Args:
        ignore: a list that an earlier call of ``new-task`` wrote.

    Raises:
        CompatbenchError: no labelled image, a name that cannot be printed, a link that leads
            out of the folder, or a broken file.
    """
    if not place.exists():
        raise CompatbenchError(f"there is no folder or file {place}")
    is_folder = place.is_dir()
    if is_folder:
        folder = place
        entries = list(_list_tree(place))
    else:
        folder = place.parent
        entries = [place.name]

    def ending(*endings: str) -> list[str]:
        return sorted(name for name in entries if name.lower().endswith(endings))

    lists = ending(*LISTS)
    if is_folder:
        # In a folder, only files beside the class folders that have the right columns are lists.
        candidates = lists
        lists = []
        for name in candidates:
            path = place / name
            is_own = path == ignore or _is_of_card(path)
            if "/" not in name and not is_own and _is_list(path):
                lists.append(name)
    elif lists and place == ignore:
        raise CompatbenchError(f"{place} would be replaced; choose another name: --name")
    if len(lists) > 1:
        both = " and ".join(lists)
        raise CompatbenchError(f"{place} has several lists, {both}; give the path of one")
    if lists:
        return _scan_list(folder / lists[0])
    parquet_files = ending(PARQUET)
    shards = ending(TAR)
    arrow_files = ending(ARROW)
    if parquet_files:
        splits = {name: _split_of(name) for name in parquet_files}
        listing = scan_containers(folder, splits, "parquet file")
    elif shards:
        listing = _scan_shards(folder, sorted(shards, key=_by_number))
    elif arrow_files:
        file = folder / arrow_files[0]
        raise CompatbenchError(
            f"{file}: Arrow files are not read; save each split as parquet instead: "
            f"datasets.load_from_disk('{file.parent}').to_parquet('train.parquet')"
        )
    elif is_folder:
        return _scan_folders(folder, entries)
    else:
        raise CompatbenchError(
            f"{place}: give a folder, a list (.csv, .tsv, .jsonl), a tar shard (.tar, not "
            "compressed), or a parquet file"
        )
    if listing.frame.empty:
        raise CompatbenchError(f"{place} holds no image with a label")
    listing.frame["label"] = listing.frame["label"].map(str)
    return listing


def _list_tree(root: Path) -> Iterator[str]:
    """Yield the paths below a folder, sorted folder by folder; folders end with a slash.

    Hidden files are left out.

    Raises:
        CompatbenchError: there is a link to a folder, which might lead round in circles, or a name
            that is not plain.
    """

    def stop(error: OSError) -> None:
        with reading(Path(error.filename)):  # turns it into an error of the dataset
            raise error

    for place, folders, files in os.walk(root, onerror=stop):
        inner = Path(place).relative_to(root)
        prefix = f"{inner.as_posix()}/" if inner.parts else ""
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = sorted(name for name in files if not name.startswith("."))
        for name in (*folders, *files):
            if not name.isprintable() or "\\" in name:
                raise CompatbenchError(f"{place} holds {name!r}; rename it in plain characters")
            if os.path.islink(os.path.join(place, name)):
                inside(root, place, name)
                if name in folders:
                    fix = "put the folder itself there"
                    raise CompatbenchError(f"{place}/{name} is a link to a folder; {fix}")
        for name in folders:
            yield f"{prefix}{name}/"
        for name in files:
            yield f"{prefix}{name}"


def _is_of_card(path: Path) -> bool:
    """Return True for a list that ``new-task`` or ``advise`` wrote beside the card of its task."""
    card = look_at(path.with_suffix(".yaml"))
    return card is not None and card.kind == "task"


def _is_list(path: Path) -> bool:
    try:
        return choose_columns(read_csv(path, 2).columns) is not None
    except CompatbenchError:
        return False


def _scan_list(path: Path) -> Listing:
    """Return a list's images; raise an error if one is missing or listed twice."""
    listing = scan_list(path, path.parent)
    frame = listing.frame
    frame["path"] = [str(PurePosixPath(image)) for image in frame["path"]]
    lines: dict[str, object] = {}
    for line, image in frame["path"].items():
        if not inside(path.parent, image).is_file():
            raise CompatbenchError(f"{path}:{line}: there is no file {path.parent / image}")
        first_line = lines.setdefault(image, line)
        if first_line != line:
            raise CompatbenchError(
                f"{path}:{line}: {image!r} is in line {first_line}, too; drop one"
            )
    return listing


def _scan_folders(folder: Path, entries: Sequence[str]) -> Listing:
    """Return the images ``[split/]class/.../image``, perhaps below folders around all of them."""
    images = [name for name in entries if is_image(name)]
    if not images:
        others = _describe_others(entries)
        also = f"; {others}" if others else ""
        raise CompatbenchError(
            f"{folder} holds no image ({', '.join(EXTENSIONS)}){also}; expected a folder per "
            f"class: {folder.name}/CLASS/IMAGE.jpg"
        )
    deep = []  # the parts of the paths of images that are in a folder
    for name in images:
        if "/" in name:
            deep.append(PurePosixPath(name).parts)
    if not deep:
        raise CompatbenchError(
            f"{folder} holds {count(len(images), 'image')} and no class folders; sort "
            "them into a folder per class, or list them in a CSV with the columns path,label"
        )
    notes = []
    others = _describe_others(entries)
    problems = [others] if others else []
    beside = len(images) - len(deep)
    if beside:
        notes.append(f"{count(beside, 'image')} beside the folders skipped")
    level = _find_level(deep)
    tops = {parts[level] for parts in deep}
    splits = sorted(name for name in tops if name.lower() in SPLIT_NAMES)
    others = sorted(tops.difference(splits))
    if others:
        # A class may have the name of a split, such as 'train', but it contains no class folders.
        around_classes = {parts[level] for parts in deep if len(parts) > level + 2}
        splits = [name for name in splits if name in around_classes]
    has_train = "train" in [SPLIT_NAMES[name.lower()] for name in splits]
    if has_train and len(tops) > 1:
        if others:
            raise CompatbenchError(
                f"{folder}: the folder '{others[0]}' beside {' and '.join(splits)} is not a split; "
                "remove it, give the folder of the classes, or list the images in a CSV"
            )
        rows = []
        for parts in deep:
            path = "/".join(parts)
            if len(parts) < level + 3:
                raise CompatbenchError(f"{folder}: {path} is in no class folder; sort it into one")
            split = SPLIT_NAMES[parts[level].lower()]
            rows.append((path, parts[level + 1], split))
        rows.sort(key=lambda row: row[0].split("/")[level])
        frame = make_frame(rows)
        kind = "class folders with splits"
        return Listing(kind, folder, frame, notes=notes, problems=problems)
    around = PurePosixPath(*deep[0][:level])
    empty = []
    for name in entries:
        inner = PurePosixPath(name)
        if name.endswith("/") and inner.parent == around and inner.name not in tops:
            empty.append(inner.name)
    if empty:
        notes.append(f"folders without an image are not classes: {', '.join(sorted(empty))}")
    rows = [("/".join(parts), parts[level], "") for parts in deep]
    return Listing("class folders", folder, make_frame(rows), notes=notes, problems=problems)


def _describe_others(entries: Sequence[str]) -> str:
    """Return a line about the files below folders that are no images; '' if there are none."""
    others = [name for name in entries if "/" in name.rstrip("/") and not name.endswith("/")]
    others = [name for name in others if not is_image(name) and not name.lower().endswith(LISTS)]
    if not others:
        return ""
    endings = sorted({PurePosixPath(name).suffix.lower() or "no ending" for name in others})
    more = " ..." if len(others) > MOST_SHOWN else ""
    return (
        f"{count(len(others), 'file')} of a kind that is not read ({', '.join(endings)}) "
        f"{is_or_are(len(others))} left out: {', '.join(others[:MOST_SHOWN])}{more}; save "
        "images as JPEG or PNG to use them"
    )


def _find_level(paths: Sequence[tuple[str, ...]]) -> int:
    """Return the depth of the folders of splits or classes: the first one with several folders."""
    level = 0
    while True:
        folders = {parts[level] for parts in paths}
        all_deeper = all(len(parts) > level + 2 for parts in paths)
        if len(folders) > 1 or not all_deeper:
            return level
        level += 1


def _scan_shards(folder: Path, shards: Sequence[str]) -> Listing:
    """Return the images of tar shards, with CLIP_benchmark's class names and prompts beside them.

    Raises:
        CompatbenchError: the file of the dataset's purpose says that it is not for classification.
    """
    type_file = inside(folder, TYPE)
    purpose = " ".join(read_lines(type_file)) if type_file.exists() else ""
    if purpose:
        raise CompatbenchError(
            f"{type_file} says '{purpose}'; a task needs one class for every image"
        )
    files = {shard: _split_of(shard) for shard in shards}
    listing = scan_containers(folder, files, "tar shard")
    names = inside(folder, CLASS_NAMES)
    titles = read_lines(names) if names.exists() else []
    largest = max(listing.frame["label"], default=-1)
    if titles and largest >= len(titles):
        raise CompatbenchError(f"{names} has {len(titles)} names, but label {largest} occurs")
    listing.names = {str(label): title for label, title in enumerate(titles)}
    prompts = inside(folder, TEMPLATES)
    if prompts.exists():
        lines = [line.replace("{c}", "{}") for line in read_lines(prompts)]
        listing.templates = sorted(lines, key=lambda line: line != PLAIN)  # the plain one is first
        listing.notes.append(f"{len(lines):,} prompts of {TEMPLATES} are used")
    return listing


def _split_of(path: str) -> str:
    """Return the split in the path of a shard: ``train/0.tar``, ``data/train-00000-of-2``."""
    for part in reversed(PurePosixPath(path.lower()).with_suffix("").parts):
        words = re.split("[-_.]", part)
        for word in words:
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return ""


def _by_number(shard: str) -> tuple[str, int, str]:
    """Return a key that sorts ``9.tar`` before ``10.tar``."""
    path = PurePosixPath(shard)
    number = int(path.stem) if path.stem.isdecimal() else -1
    return str(path.parent), number, path.stem
