"""The content of a wheel, its page, and the environment of the tests."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from itertools import chain
from pathlib import Path

import pytest

import compatbench
from compatbench.backbone.load import find_weights
from compatbench.cli.new_method import fill_template
from compatbench.data.cards import backbone_cards, suite_cards
from compatbench.engine.plan import find_teachers
from compatbench.errors import CompatbenchError

REPOSITORY = Path(__file__).parents[1]
SETUP = runpy.run_path(str(REPOSITORY / "setup.py"), run_name="setup")
CONFIG = ConfigParser()
CONFIG.read(REPOSITORY / "setup.cfg")
# The programs that made the mini suite.
NOT_SHIPPED = {"compatbench.tasks.mini.build"}


def test_wheel_contains_every_package() -> None:
    """setuptools cannot find packages below the roots beside the harness."""
    data = CONFIG["options.package_data"]
    packages = set()
    for line in CONFIG["options"]["package_dir"].strip().splitlines():
        root, folder = line.split(" = ")
        for path in (REPOSITORY / folder).rglob("__init__.py"):
            parts = path.parent.relative_to(REPOSITORY / folder).parts
            packages.add(".".join((root, *parts)))
        if root in data:  # a folder without code, whose files are listed as data
            packages.add(root)
    assert CONFIG["options"]["packages"].split() == sorted(packages - NOT_SHIPPED)


def test_wheel_has_the_models_of_the_mini_suites() -> None:
    patterns = CONFIG["options.package_data"]["compatbench.tasks.mini"].split(", ")
    models = [*(REPOSITORY / "tasks" / "mini").glob("*.safetensors")]
    shipped = {path.stem: path for path in models if any(map(path.match, patterns))}
    for suite in map(suite_cards.read, ("smoke", "mini")):
        teachers = find_teachers(suite, suite.methods)
        assert {*chain(*suite.upgrades), *teachers} <= shipped.keys()
    assert sum(path.stat().st_size for path in shipped.values()) < 45e6


def test_a_shipped_model_that_was_deleted_is_reported_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_weights, "tasks_folder", lambda: tmp_path)
    said = "mini-clip.safetensors are missing.*put them there, or install compatbench again"
    with pytest.raises(CompatbenchError) as caught:
        find_weights.find_weights(backbone_cards.read("mini-clip"))
    assert re.search(said, f"{caught.value}; {caught.value.fix}")


def test_models_of_a_wheel_are_compressed_and_unpacked_for_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mini").mkdir()
    model = tmp_path / "mini" / "mini-clip.safetensors"
    model.write_bytes(bytes(range(256)) * 16)
    SETUP["pack"](model.parent)
    assert [path.name for path in model.parent.iterdir()] == ["mini-clip.xz"]
    monkeypatch.setattr(find_weights, "tasks_folder", lambda: tmp_path)
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        path = find_weights.find_weights(backbone_cards.read("mini-clip"))
        assert path.read_bytes() == bytes(range(256)) * 16


@pytest.mark.slow
def test_program_works_in_the_folder_above_a_clone(tmp_path: Path) -> None:
    """There, Python could mistake the clone's folder for the package of the same name."""
    (tmp_path / "compatbench").symlink_to(REPOSITORY)
    site = tmp_path / "site"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    clone = ["setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE", "benchmark"]
    clone += ["methods", "transfers", "formats", "tasks", "results"]
    (tmp_path / "clone").mkdir()  # setuptools writes here
    for name in clone:
        (tmp_path / "clone" / name).symlink_to(REPOSITORY / name)
    build = f"import setuptools.build_meta as b; b.build_editable({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "clone", check=True)
    [wheel] = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    # Everything installed in this interpreter, except the package.
    begin = "import runpy, site, sys; "
    begin += "sys.meta_path[:] = [each for each in sys.meta_path if 'editable' not in repr(each)]; "
    begin += "sys.path[:] = [place for place in sys.path if not place.endswith('benchmark')]; "
    begin += f"site.addsitedir({str(site)!r}); sys.argv[1:] = ['list', 'methods', 'co*']; "
    import_all = "import compatbench as cb, compatbench.methods.coop; print(cb.methods('co*'))"
    as_module = "runpy.run_module('compatbench', run_name='__main__')"
    for code in (import_all, as_module):
        command = [sys.executable, "-c", begin + code]
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert "coop" in shown.stdout, shown.stderr


def test_environment_variables_of_the_caller_do_not_reach_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    callers = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere", "LC_ALL": "C", "RAY_ADDRESS": "x:1"}
    callers |= {"GITHUB_ACTIONS": "true", "COMPATBENCH_TASKS": "/nowhere", "NO_COLOR": "1"}
    for name, value in (callers | {"HOME": "/nowhere"}).items():
        monkeypatch.setenv(name, value)
    runpy.run_path(str(Path(__file__).with_name("clean_environment.py")))
    assert not callers.keys() & os.environ.keys()
    assert Path.home().is_dir()


HOME = "https://git.example/us/compatbench"


def test_links_of_the_package_page_lead_to_the_repository() -> None:
    facts = SETUP["describe"](REPOSITORY, HOME)
    page = facts["long_description"]
    release = compatbench.__version__
    for link in (
        f"[the results as a site]({HOME}/blob/v{release}/docs/README.md#the-results-as-a-site)",
        f"]({HOME}/raw/v{release}/results/figures/mini-scatter-1.svg)",
        f"[![CI]({HOME}/actions/workflows/ci.yml/badge.svg)]({HOME}/actions/workflows/ci.yml)",
        "](https://arxiv.org/abs/2412.20895)",
        "](#where-to-begin)",
    ):
        assert link in page, link
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", page) == []
    assert facts["project_urls"]["Issues"] == f"{HOME}/issues"
    assert SETUP["describe"](REPOSITORY, "") == {}


def test_claimed_python_versions_are_tested_and_the_release_is_dated() -> None:
    claimed = re.findall(r"Python :: (3\.\d+)", CONFIG["metadata"]["classifiers"])
    workflow = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()
    tested = ", ".join(f'"{version}"' for version in claimed)
    assert f"python: [{tested}]" in workflow
    assert CONFIG["options"]["python_requires"].startswith(f">={claimed[0]}")
    for text in ("README.md", "docs/tutorial.md"):
        assert f"Python {claimed[0]} or newer" in (REPOSITORY / text).read_text(encoding="utf-8")
    version = re.escape(compatbench.__version__)
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {version} \(\d{{4}}-\d\d-\d\d\)$", changes, re.MULTILINE)
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^version: {version}$", citation, re.MULTILINE)


@pytest.mark.slow
def test_new_method_passes_strict_type_checking(tmp_path: Path) -> None:
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed")
    (tmp_path / "mine.py").write_text(fill_template("mine"))
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(REPOSITORY / "benchmark")]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [pyright, "--pythonpath", sys.executable, "--project", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "0 errors" in done.stdout, done.stdout
