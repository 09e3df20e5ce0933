"""The documentation as a site: `sphinx-build -W --keep-going docs site` (extra `docs`).

The pages are plain Markdown that GitHub shows, too. The sidebar is made from the headings and links
of docs/README.md, so a new page is linked there and nowhere else. The built pages make no request
to any network. Why Sphinx with MyST: Material for MkDocs gets critical fixes only.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
REPOSITORY = DOCS.parent

project = "compatbench"
author = "The compatbench authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
myst_heading_anchors = 4  # headings have the anchors that GitHub gives them
html_theme = "furo"
html_title = project
html_theme_options = {"top_of_page_buttons": []}
html_show_copyright = html_copy_source = html_show_sourcelink = html_use_index = False

# The page on the API is made of docstrings. What the program needs besides pydantic need not be
# installed to read them.
sys.path.insert(0, str(REPOSITORY / "benchmark"))
autodoc_mock_imports = [
    *("torch", "torchvision", "open_clip", "timm", "numpy", "pandas", "scipy", "sklearn"),
    *("safetensors", "huggingface_hub", "PIL", "filelock", "threadpoolctl"),
]
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
add_module_names = False

# Where files outside docs/ are shown: the repository of the workflow that builds the site, else
# this clone. `link_to_repository` writes links of these two schemes.
SERVER, NAME = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
SOURCE = f"{SERVER}/{NAME}/blob/main" if SERVER and NAME else REPOSITORY.as_uri()
myst_url_schemes = dict.fromkeys(("http", "https", "mailto")) | {
    "repository": f"{SOURCE}/{{{{path}}}}",
    "section": f"{SOURCE}/{{{{path}}}}#{{{{fragment}}}}",
}

LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def link_to_repository(page: Path, text: str) -> str:
    """The text with its links to folders, and to files outside docs/, leading to the repository.

    A link to nothing is left as it is: Sphinx warns of it.
    """

    def replace(link: re.Match[str]) -> str:
        target = (page.parent / link[1]).resolve()
        if not target.exists() or (target.is_file() and target.is_relative_to(DOCS)):
            return link[0]
        scheme = "section" if link[2] else "repository"
        return f"]({scheme}:{target.relative_to(REPOSITORY).as_posix()}{link[2] or ''})"

    return LINK.sub(replace, text)


def glob(pattern: str) -> str:
    """A hidden toctree of the pages that match."""
    return f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{pattern}\n```\n"


def table_of_contents(readme: Path, text: str) -> str:
    """Hidden toctrees of the pages that docs/README.md links, one per heading, each page once; of a
    folder below, one of all its pages.
    """
    if readme.parent != DOCS:
        return glob("*")
    trees, listed = "", {"README"}
    for section in re.split(r"(?m)^## ", text)[1:]:
        names = [Path(link[1]).with_suffix("").as_posix() for link in LINK.finditer(section)]
        pages = [name for name in dict.fromkeys(names) if (DOCS / f"{name}.md").is_file()]
        new = [name for name in pages if name not in listed and ".." not in name]
        listed.update(new)
        if new:
            caption = f":caption: {section.splitlines()[0]}"
            trees += "\n".join(["\n```{toctree}", ":hidden:", caption, "", *new, "```\n"])
    return trees


def read_source(app: Sphinx, name: str, source: list[str]) -> None:
    page = DOCS / f"{name}.md"
    contents = table_of_contents(page, source[0]) if page.name == "README.md" else ""
    if any(page.with_suffix("").glob("*.md")):  # such as methods.md, with a page for each
        contents = glob(f"{page.stem}/*")
    source[0] = link_to_repository(page, source[0]) + contents


def write_front_page(app: Sphinx, error: Exception | None) -> None:
    """A server shows index.html first; the site begins at README.html."""
    if error is None and app.builder.name == "html":
        front = '<!doctype html><meta http-equiv="refresh" content="0; url=README.html">\n'
        (Path(app.outdir) / "index.html").write_text(front, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("source-read", read_source)
    app.connect("build-finished", write_front_page)
