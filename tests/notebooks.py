"""The notebooks of docs/ and what they print: run in a kernel, compared, and written anew.

python tests/notebooks.py      runs every notebook in an empty folder, and keeps its outputs
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from data.trees import load_again
from formats.files_of_authors import save_coop
from nbclient import NotebookClient
from nbformat import NotebookNode

from compatbench.backbone import load_backbone
from compatbench.data.task import load_task
from compatbench.engine.cell import provenance

DOCS = Path(__file__).parents[1] / "docs"


def write_photos(folder: Path) -> list[str]:
    """Class folders of drawings of the mini suite; the classes in the order of their labels."""
    source = load_task("mini-food").source
    names = load_task("mini-food").labels.names[:3]
    for label, name in enumerate(names):
        place = folder / name
        place.mkdir(parents=True)
        drawings = [one for one in source.samples["train"] if one.label == label]
        for number, drawing in enumerate(drawings[:10]):
            source.image(drawing).save(place / f"{number}.png")
    return sorted(names)


def write_photos_and_checkpoint(folder: Path) -> None:
    """``photos/``, and a checkpoint of CoOp of these classes in ``output/seed1/``."""
    names = write_photos(folder / "photos")
    save_coop(folder / "output/seed1", load_backbone("mini-clip"), names)


# Notebook -> what writes the files that it begins with.
NOTEBOOKS: dict[str, Callable[[Path], None]] = {
    "quickstart": lambda folder: None,
    "my-upgrade": write_photos_and_checkpoint,
}


def read_notebook(name: str) -> NotebookNode:
    return nbformat.read(DOCS / f"{name}.ipynb", as_version=4)


def run_notebook(name: str, folder: Path) -> NotebookNode:
    """The notebook with the outputs that it has in a folder, and the processor they are from.

    What libraries say on the stream of errors is no output.
    """
    notebook = read_notebook(name)
    resources = {"metadata": {"path": str(folder)}}
    # On a machine that does much else a kernel takes more than a minute to start.
    NotebookClient(notebook, timeout=300, startup_timeout=300, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # the hours at which it was run
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["processor"] = provenance()["processor"]
    return notebook


def texts_of(notebook: NotebookNode) -> list[str]:
    """What each cell of code prints and shows, as text, without the line that is left of bars."""
    texts = [
        "".join(
            output.get("text") or output.data["text/plain"] + "\n"
            for output in cell.outputs
            if output.output_type != "display_data"
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    return [without_times(text) for text in texts]


def without_times(text: str) -> str:
    """The text without seconds and addresses of objects, which no two runs share."""
    return re.sub(r"0x[0-9a-f]+|\d+\.\d s", "", text)


def expect_outputs(notebook: NotebookNode, committed: NotebookNode) -> None:
    """They are those that were committed; on another processor, what each cell begins with is."""
    now = texts_of(notebook)
    before = texts_of(committed)
    assert all(before), "a cell of code shows nothing"
    if notebook.metadata["processor"] == committed.metadata["processor"]:
        assert now == before, "if that is right: python tests/notebooks.py"
    else:
        heads = [[text.split("\n")[0].split() for text in texts] for texts in (now, before)]
        assert heads[0] == heads[1]


def main() -> None:
    os.environ["COMPATBENCH_CARDS"] = ""
    for name, write_files in NOTEBOOKS.items():
        with TemporaryDirectory() as folder:
            write_files(Path(folder))
            load_again()
            nbformat.write(run_notebook(name, Path(folder)), DOCS / f"{name}.ipynb")


if __name__ == "__main__":
    main()
