"""What setup.cfg cannot say: links of README.md, where a clone is found, models in wheels."""

import lzma
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from wheel.wheelfile import WheelFile

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s]+)(?=\))")


def make_absolute(text: str, repository: str, version: str) -> str:
    """A page with its relative links leading to a release in the repository.

    Those to pictures lead to files. As on GitHub, ``../../actions`` is a page of the repository.
    """

    def replace(link: re.Match[str]) -> str:
        target = link[1]
        if target.startswith("../../"):
            return f"{repository}/{target.removeprefix('../../')}"
        kind = "raw" if target.endswith(".svg") else "blob"
        return f"{repository}/{kind}/v{version}/{target}"

    return LINK.sub(replace, text)


def describe(folder: Path, repository: str) -> dict[str, object]:
    """The arguments of ``setup`` for a repository; none where it is not known."""
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
    """Compresses the models in a folder, whose numbers have two bytes; they are used unpacked."""
    pairs = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 1, "pb": 1}]
    for path in folder.glob("*.safetensors"):
        path.with_suffix(".xz").write_bytes(lzma.compress(path.read_bytes(), filters=pairs))
        path.unlink()


class BuildPy(build_py):
    """A wheel's code and data, of which its models are most."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            pack(Path(self.build_lib, "compatbench", "tasks", "mini"))


class EditableWheel(editable_wheel):
    """``pip install -e`` that also puts ``benchmark/`` last on the path.

    By setuptools' hook alone, a clone named ``compatbench`` is a namespace package of that name in
    the folder above it, which Python takes before it asks a hook; and type checkers ask none. A
    package that is anywhere on the path goes before a namespace.
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
    # As GitHub names the repository of a workflow.
    places = [os.environ.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY")]
    facts = describe(Path(__file__).parent, "/".join(places) if all(places) else "")
    setup(cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel}, **facts)
