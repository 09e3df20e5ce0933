"""Tiny random models and features, made in memory: no weights, no images, no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import clean_environment  # noqa: F401  first, as its text says
import pytest
import torch
from hypothesis import settings
from threadpoolctl import threadpool_limits
from tiny_models import MakeData, tiny_clip, tiny_eva_clip, wrap
from warm_processes import CONTEXT

from compatbench.backbone import Backbone
from compatbench.data.labels import Labels
from compatbench.errors import CompatbenchError
from compatbench.method import FeatureSet, FewShotData
from compatbench.method.registry import builtin_methods

# The same examples on every machine, and no folder of failures left behind.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("suite")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that quick ones fill the workers' remaining time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_configure() -> None:
    """Keep compiled files: tests start many processes, and each would compile them again."""
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature cache that all tests share, in all workers of xdist."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    return base / "cache"


@pytest.fixture(autouse=True, scope="session")
def _surroundings(cache: Path) -> Iterator[None]:
    """Set the defaults of all tests.

    Features are cached in a folder of the tests. Workers of runs and checks start with everything
    loaded. Every error must be one line; a name with a line break is quoted. One thread serves
    scikit-learn, whose many small products would wait for idle threads.
    """

    def check(self: CompatbenchError, *words: object) -> None:
        for each in words:
            assert "\n" not in str(each), words

    with pytest.MonkeyPatch.context() as patch, threadpool_limits(limits=1):
        patch.setenv("COMPATBENCH_CACHE", str(cache))
        patch.setattr("multiprocessing.get_context", lambda method=None: CONTEXT)
        patch.setattr(CompatbenchError, "__init__", check)
        yield


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Restore the environment after each test: commands set variables for their workers."""
    before = dict(os.environ)
    yield
    for name in {*os.environ} - {*before}:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True, scope="module")
def _own_methods() -> None:
    """Forget the methods that the tests of another file added."""
    builtin_methods.cache_clear()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Use one thread: tests share the machine with other programs."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


# Models by name: the source, a CLIP of token width 32 and embedding size 16; its upgrade, an
# EVA-CLIP of the same sizes; targets with one or two other sizes; and a backbone with the widths of
# ViT-B/16, for published parameter counts.
MODELS = {
    "clip": tiny_clip,
    "eva": tiny_eva_clip,
    "wider_text": partial(tiny_clip, seed=3, width=48),
    "stranger": partial(tiny_eva_clip, seed=5, width=48, embed_dim=24),
    "b16_sized": partial(tiny_clip, seed=6, width=512, embed_dim=512, heads=8, layers=1),
    "clip64": lambda: tiny_clip().double(),
    "eva64": lambda: tiny_eva_clip().double(),
}


def _model_fixture(name: str) -> Any:
    @pytest.fixture(scope="session", name=name)
    def model() -> Backbone:
        return wrap(MODELS[name](), name)

    return model


clip, eva, wider_text, stranger, b16_sized, clip64, eva64 = map(_model_fixture, MODELS)


@pytest.fixture(scope="session", params=["clip", "eva"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Either model of the pair."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session", params=["clip64", "eva64"])
def backbone64(request: pytest.FixtureRequest) -> Backbone:
    """Either model of the pair in double precision."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def float64() -> Iterator[None]:
    """Draw in double precision, so that steps equal their formulas exactly."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def labels() -> Labels:
    """Five classes whose names have 1, 7, 2, 4 and 1 tokens."""
    return Labels(
        names=("dog", "hippopotamus", "red apple", "xylophone", "tree"),
        templates=("a photo of a {}.", "a drawing of the {}.", "{} texture"),
        teacher_template="a photo of a {}, a type of thing.",
        descriptions=(
            ("a friend", "It barks.", "often runs"),
            ("grey skin", "can swim"),
            ("A red apple is sweet.", "used in pies", "an old fruit", "antlers"),
            ("wooden bars", "The xylophone of a child"),
            ("leaves", "A tree is tall."),
        ),
    )


@pytest.fixture(scope="session")
def make_data() -> MakeData:
    """Make few-shot data from random features, grouped by class as in a draw."""

    def make(
        backbone: Backbone,
        labels: Labels,
        shots: int | list[int] = 3,
        val: int = 2,
        views: int = 2,
        seed: int = 0,
    ) -> FewShotData:
        generator = torch.Generator().manual_seed(seed)
        dtype = next(backbone.model.parameters()).dtype
        centres = torch.randn(len(labels), backbone.embed_dim, generator=generator)

        def features(counts: list[int], views: int) -> FeatureSet:
            targets = torch.repeat_interleave(torch.arange(len(labels)), torch.tensor(counts))

            def draw() -> torch.Tensor:
                noise = torch.randn(len(targets), backbone.embed_dim, generator=generator)
                return (3 * (centres[targets] + 1.5 * noise)).to(dtype)

            plain = draw()
            augmented = torch.stack([draw() for _ in range(views)])
            return FeatureSet(plain, augmented, targets)

        counts = shots if isinstance(shots, list) else [shots] * len(labels)
        train = features(counts, views)
        held_out = features([val] * len(labels), 1)
        return FewShotData(labels, max(counts), train, held_out)

    return make


@pytest.fixture(scope="session")
def few(clip64: Backbone, labels: Labels, make_data: MakeData) -> MakeData:
    """Make few-shot data on the source, in double precision."""
    return partial(make_data, clip64, labels)


@pytest.fixture(scope="session")
def data(clip: Backbone, labels: Labels, make_data: MakeData) -> FewShotData:
    """Three shots, two views and two validation images per class on the source."""
    return make_data(clip, labels)


@pytest.fixture(scope="session")
def data64(clip64: Backbone, labels: Labels, make_data: MakeData) -> FewShotData:
    """The same in double precision."""
    return make_data(clip64, labels)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Seven image features of the pair's size, not normalised."""
    return 3 * torch.randn(7, 16, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="session")
def images64(images: torch.Tensor) -> torch.Tensor:
    """The same in double precision."""
    return images.double()
