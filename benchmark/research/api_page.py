"""The API reference for authors of methods, ``docs/api/``: one page per class that they meet.

It is made of docstrings, by griffe2md, without running anything.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from griffe import GriffeLoader, Object
from griffe2md import ConfigDict, render_object_docs
from pages import Page

REPOSITORY = Path(__file__).parents[2]
MADE = "Made by `python benchmark/pages.py api`."
ABOUT = "For authors of methods: the classes and functions that a method uses."
# Page -> what is on it, as paths within ``compatbench``.
PAGES: dict[str, tuple[str, ...]] = {
    "Method": ("method.Method", "method.MethodCard", "method.CosineClassifier"),
    "TrainedMethod": ("method.trained.TrainedMethod",),
    "Recipe": ("method.trained.Recipe",),
    "Batch": ("method.trained.Batch",),
    "FewShotData": tuple(f"method.few_shot.{n}" for n in ("FewShotData", "FeatureSet", "Teacher")),
    "Labels": ("data.labels.Labels",),
    "Module": ("method.Module",),
    "Backbone": (
        *("backbone.backbone.Backbone", "backbone.text.text_tower.TextTower"),
        "backbone.image.image_tower.ImageTower",
    ),
    "Hooks": (
        *("backbone.image.image_tower.ImageInput", "backbone.parts.blocks.BlockUpdates"),
        *("method.shift_weights", "method.require_shape", "method.require_blocks"),
        "errors.NotTransferable",
    ),
}
FIELDS = {"Recipe"}  # of which every field is shown, with its default
CONFIG: ConfigDict = {
    "docstring_section_style": "list",
    "filters": ["!^_", "!^model_config$"],
    "inherited_members": False,
    "line_length": 100,
    "members_order": "source",
    "show_if_no_docstring": False,
    "show_object_full_path": False,
    "show_root_full_path": False,
    "show_root_members_full_path": False,
    "show_signature_annotations": True,
    "summary": False,
}


@cache
def load() -> Object:
    """compatbench as griffe reads it."""
    loader = GriffeLoader(
        search_paths=[REPOSITORY / "benchmark"],
        docstring_parser="google",  # type: ignore[arg-type]
        allow_inspection=False,
    )
    return loader.load("compatbench")  # type: ignore[return-value]


def make_page() -> Page:
    """The pages; the same docstrings give the same text."""
    pages, lines = {}, []
    for title, paths in PAGES.items():
        shown = [load()[path] for path in paths]
        config: ConfigDict = {**CONFIG, "show_if_no_docstring": title in FIELDS}
        parts = [_unlink(render_object_docs(each, config, format_md=True)) for each in shown]
        pages[f"api/{title.lower()}.md"] = "\n".join([f"# {title}\n\n{MADE}\n", *parts])
        first = [f"`{each.name}`: {_first_line(each)}" for each in shown]
        lines += [f"* [{title}]({title.lower()}.md): {'; '.join(first)}"]
    pages["api/README.md"] = "\n".join(["# API", "", f"{ABOUT} {MADE}", "", *lines]) + "\n"
    return Page(files=pages)


def _unlink(text: str) -> str:
    """Types and attributes as code: what they would link to has no page."""

    def code(match: re.Match[str]) -> str:
        return "`" + re.sub(r"\[([^]]*)\]\(#[^)]*\)|\\(.)", r"\1\2", match[1]) + "`"

    text = re.sub(r"<code>(.*?)</code>", code, text)
    return re.sub(r"\[\*\*(\w+)\*\*\]\(#[^)]*\)", r"`\1`", text).replace("**`", "`")


def _first_line(documented: Object) -> str:
    text = documented.docstring.value if documented.docstring else ""
    return re.sub(r"``", "`", text.split("\n\n")[0].replace("\n", " ")).rstrip(".")
