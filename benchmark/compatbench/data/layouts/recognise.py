"""Scans folders and files that no card describes: their layout is recognised."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

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

LISTS = (".csv", ".tsv", ".jsonl")
ARROW = ".arrow"  # what ``save_to_disk`` of ``datasets`` writes
# Beside CLIP_benchmark's shards: prompts with {c} for the class, and what the dataset is for.
TEMPLATES, TYPE = "zeroshot_classification_templates.txt", "dataset_type.txt"
PLAIN = "a photo of a {}."  # the zero-shot prompt, wherever it stands among the prompts


def scan(place: Path, ignore: Path | None = None) -> Listing:
    """The images of a folder, of a list, of a tar shard or of a parquet file; none is opened.

    Their labels are text, and splits are those that folders, files or a column name.

    Args:
        ignore: a list that an earlier call has led to.

    Raises:
        CompatbenchError: no labelled image, a name that cannot be printed, a link that leads
            out of the folder, or a broken file.
    """
    if not place.exists():
        raise CompatbenchError(f"there is no folder or file {place}")
    is_folder = place.is_dir()
    folder, entries = (
        (place, list(_list_tree(place))) if is_folder else (place.parent, [place.name])
    )

    def ending(*endings: str) -> list[str]:
        return sorted(name for name in entries if name.lower().endswith(endings))

    lists = ending(*LISTS)
    if is_folder:
        lists = [name for name in lists if "/" not in name and place / name != ignore]
        lists = [name for name in lists if _is_list(place / name)]
    elif lists and place == ignore:
        raise CompatbenchError(f"{place} would be replaced; choose another name: --name")
    if len(lists) > 1:
        both = " and ".join(lists)
        raise CompatbenchError(f"{place} has several lists, {both}; give the path of one")
    if lists:
        return _scan_list(folder / lists[0])
    if rows := ending(PARQUET):
        listing = scan_containers(folder, {name: _split_of(name) for name in rows}, "parquet file")
    elif shards := ending(TAR):
        listing = _scan_shards(folder, sorted(shards, key=_by_number))
    elif arrow := ending(ARROW):
        saved = (folder / arrow[0]).parent
        raise CompatbenchError(
            f"{folder / arrow[0]}: Arrow files are not read; save each split as parquet instead: "
            f"datasets.load_from_disk('{saved}').to_parquet('train.parquet')"
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
    """What is below a folder, with slashes, sorted folder by folder; folders end with a slash.

    What is hidden is left out. A link to a folder, which might lead round in circles, is an error,
    and so is a name that is not plain.
    """

    def stop(error: OSError) -> None:
        with reading(Path(error.filename)):
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
        yield from (f"{prefix}{name}/" for name in folders)
        yield from (f"{prefix}{name}" for name in files)


def list_images(folder: Path, most: int | None = None) -> list[str]:
    """Images of ``--images``, at any depth, sorted; of more than ``most`` as many, evenly.

    Raises:
        CompatbenchError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise CompatbenchError(f"--images: there is no folder {folder}")
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if is_image(path.name) and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise CompatbenchError(f"--images: {folder} holds no image ({', '.join(EXTENSIONS)})")
    number = min(most or len(files), len(files))
    return [files[i * len(files) // number] for i in range(number)]


def _is_list(path: Path) -> bool:
    try:
        return choose_columns(read_csv(path, 2).columns) is not None
    except CompatbenchError:
        return False


def _scan_list(path: Path) -> Listing:
    """A list whose images are all there, each once."""
    listing = scan_list(path, path.parent)
    frame = listing.frame
    frame["path"] = [str(PurePosixPath(image)) for image in frame["path"]]
    lines: dict[str, object] = {}
    for line, image in frame["path"].items():
        if not inside(path.parent, image).is_file():
            raise CompatbenchError(f"{path}:{line}: there is no file {path.parent / image}")
        if (before := lines.setdefault(image, line)) != line:
            raise CompatbenchError(f"{path}:{line}: {image!r} is in line {before}, too; drop one")
    return listing


def _scan_folders(folder: Path, entries: Sequence[str]) -> Listing:
    """``[split/]class/.../image``, perhaps below folders around all of that."""
    images = list(filter(is_image, entries))
    if not images:
        raise CompatbenchError(f"{folder} holds no image ({', '.join(EXTENSIONS)})")
    deep = [PurePosixPath(name).parts for name in images if "/" in name]
    if not deep:
        raise CompatbenchError(
            f"{folder} holds {len(images)} images and no class folders; sort them into a folder "
            "per class, or list them in a CSV with the columns path,label"
        )
    notes = []
    if beside := len(images) - len(deep):
        notes.append(f"{beside:,} images beside the folders skipped")
    level = 0  # of the folders of splits or classes
    while len({parts[level] for parts in deep}) == 1 and all(len(p) > level + 2 for p in deep):
        level += 1
    tops = {parts[level] for parts in deep}
    splits = sorted(name for name in tops if name.lower() in SPLIT_NAMES)
    if "train" in {SPLIT_NAMES[name.lower()] for name in splits} and len(tops) > 1:
        if extra := sorted(tops.difference(splits)):
            raise CompatbenchError(
                f"{folder}: beside {' and '.join(splits)} lies '{extra[0]}', which is no split; "
                "remove it, or give the folder of the classes"
            )
        if flat := ["/".join(parts) for parts in deep if len(parts) < level + 3]:
            raise CompatbenchError(f"{folder}: {flat[0]} is in no class folder; sort it into one")
        rows = [("/".join(p), p[level + 1], SPLIT_NAMES[p[level].lower()]) for p in deep]
        rows.sort(key=lambda row: row[0].split("/")[level])
        return Listing("class folders with splits", folder, make_frame(rows), notes=notes)
    around = PurePosixPath(*deep[0][:level])
    inner = [PurePosixPath(name) for name in entries if name.endswith("/")]
    empty = sorted(p.name for p in inner if p.parent == around and p.name not in tops)
    if empty:
        notes.append(f"folders without an image are no classes: {', '.join(empty)}")
    rows = [("/".join(parts), parts[level], "") for parts in deep]
    return Listing("class folders", folder, make_frame(rows), notes=notes)


def _scan_shards(folder: Path, shards: Sequence[str]) -> Listing:
    """Tar shards, with what CLIP_benchmark keeps beside them: class names, prompts and purpose."""
    if (purpose := inside(folder, TYPE)).exists() and (said := " ".join(read_lines(purpose))):
        raise CompatbenchError(f"{purpose} says '{said}'; a task needs one class for every image")
    files = {shard: _split_of(shard) for shard in shards}
    listing = scan_containers(folder, files, "tar shard")
    names = inside(folder, CLASS_NAMES)
    titles = read_lines(names) if names.exists() else []
    most = max(listing.frame["label"], default=-1)
    if titles and most >= len(titles):
        raise CompatbenchError(f"{names} has {len(titles)} names, but label {most} occurs")
    listing.names = {str(label): title for label, title in enumerate(titles)}
    if (prompts := inside(folder, TEMPLATES)).exists():
        lines = [line.replace("{c}", "{}") for line in read_lines(prompts)]
        listing.templates = sorted(lines, key=lambda line: line != PLAIN)
        listing.notes.append(f"{len(lines):,} prompts of {TEMPLATES} are taken")
    return listing


def _split_of(path: str) -> str:
    """The split that the path of a shard names: ``train/0.tar``, ``data/train-00000-of-2``."""
    for part in reversed(PurePosixPath(path.lower()).with_suffix("").parts):
        for word in part.replace("_", "-").replace(".", "-").split("-"):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return ""


def _by_number(shard: str) -> tuple[str, int, str]:
    """``9.tar`` is before ``10.tar``."""
    path = PurePosixPath(shard)
    return str(path.parent), int(path.stem) if path.stem.isdecimal() else -1, path.stem
