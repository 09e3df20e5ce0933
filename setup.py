"""Do what setup.cfg cannot: absolute links in README.md, a path for clones, packed models."""

import lzma
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from wheel.wheelfile import WheelFile

# The target of a Markdown link, ``](target)``, that is neither an address nor a heading.
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s]+)(?=\))")


def make_absolute(text: str, repository: str, version: str) -> str:
    """Return a page whose relative links lead to a release in the repository.

    Links to pictures lead to the files themselves. As on GitHub, ``../../actions`` is a page of the
    repository.
    """

    def replace(link: re.Match[str]) -> str:
        target = link[1]
        if target.startswith("../../"):
            return f"{repository}/{target.removeprefix('../../')}"
        kind = "raw" if target.endswith(".svg") else "blob"
        return f"{repository}/{kind}/v{version}/{target}"

    return LINK.sub(replace, text)


def describe(folder: Path, repository: str) -> dict[str, Any]:
    """Return the arguments of ``setup`` that name the repository; none if it is not known."""
    if not repository:
        return {}
    code = (folder / "benchmark" / "compatbench" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', code, re.MULTILINE)
    assert version is not None
    readme = (folder / "README.md").read_text(encoding="utf-8")
    page = f"{repository}/blob/v{version[1]}"
    return {
        "long_description": make_absolute(readme, repository, version[1]),
        "url": repository,
        "project_urls": {
            "Documentation": f"{page}/docs/README.md",
            "Leaderboard": f"{page}/leaderboard.md",
            "Changelog": f"{page}/CHANGELOG.md",
            "Issues": f"{repository}/issues",
        },
    }


def pack(folder: Path) -> None:
    """Compress the models in a folder. They are unpacked before they are used."""
    # Their numbers have two bytes each, so positions are counted in pairs (lp, pb).
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 1, "pb": 1}]
    for path in folder.glob("*.safetensors"):
        packed = lzma.compress(path.read_bytes(), filters=filters)
        path.with_suffix(".xz").write_bytes(packed)
        path.unlink()


class BuildPy(build_py):
    """The step that copies code and data into a wheel. It packs the models, the largest part."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            pack(Path(self.build_lib, "compatbench", "tasks", "mini"))


class EditableWheel(editable_wheel):
    """The step of ``pip install -e``. It also puts ``benchmark/`` last on the path.

    Setuptools' own hook is not enough. From the folder above a clone, Python would take the clone,
    a folder named ``compatbench``, for a namespace package before it asks a hook, and type checkers
    ask no hook. A real package anywhere on the path is preferred to a namespace.
    """

    def run(self) -> None:
        super().run()
        [path] = Path(self.dist_dir).glob("*.whl")
        with TemporaryDirectory() as folder:
            with WheelFile(path) as wheel:
                wheel.extractall(folder)
            benchmark = Path(__file__).resolve().parent / "benchmark"
            Path(folder, "compatbench.pth").write_text(f"{benchmark}\n", encoding="utf-8")
            path.unlink()
            with WheelFile(path, "w") as wheel:
                wheel.write_files(folder)


if __name__ == "__main__":
    # In a workflow, GitHub names the repository in these variables.
    server = os.environ.get("GITHUB_SERVER_URL", "")
    name = os.environ.get("GITHUB_REPOSITORY", "")
    repository = f"{server}/{name}" if server and name else ""
    facts = describe(Path(__file__).parent, repository)
    setup(cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel}, **facts)
