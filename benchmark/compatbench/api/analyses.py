"""Why modules survive an upgrade: layers, depth, joint spaces, and the paper's claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compatbench.data.cards import SuiteCard
    from compatbench.studies.claims import ClaimsReport
    from compatbench.studies.depth import DepthReport
    from compatbench.studies.embeddings import EmbeddingsReport
    from compatbench.studies.gauge import GaugeReport
    from compatbench.studies.layers import LayersReport
    from compatbench.studies.stress_report import StressReport
    from compatbench.studies.study_setup import Watch

Names = str | Sequence[str]


def analyze_layers(
    source: str,
    target: str,
    *,
    suite: str | SuiteCard = "mini",
    tasks: Names | None = None,
    images: int = 256,
    seed: int = 1,
    device: str = "auto",
) -> LayersReport:
    """How far each layer of both towers has moved: its parameters and its features.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        tasks: whose class names and images are used; all of the suite by default.
        images: test images, drawn evenly from all tasks with ``seed``.

    Returns:
        A report: ``rows`` is a frame with a row per layer, ``tables()`` and ``draw()`` show it.

    Raises:
        CompatbenchError: an unknown name, or images or weights that are missing.
    """
    from compatbench.studies.layers import study_layers
    from compatbench.studies.study_setup import StudySetup

    return study_layers(StudySetup.make(source, target, suite, device), tasks, images, seed)


def analyze_depth(
    source: str,
    target: str,
    tasks: Names | None = None,
    *,
    suite: str | SuiteCard = "mini",
    shots: int | None = None,
    seeds: Sequence[int] | None = None,
    steps: int = 100,
    rates: Sequence[float] | None = None,
    out: str | Path = ".",
    jobs: int | None = None,
    device: str = "auto",
    watch: Watch | None = None,
) -> DepthReport:
    """Fits the same small module at each depth of the text tower, and copies it to the target.

    Finished fits are kept in ``runs/depth/`` and are not run again.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        tasks: with training images; all of the suite by default.
        shots, seeds: by default the suite's largest number of shots, and its seeds.
        steps: most optimiser steps of a fit.
        rates: learning rates, of which each fit chooses on its few-shot validation images.
        out: the folder of ``runs/``.
        jobs: worker processes; one per core by default, one on a GPU.
        watch: is given the cells and the number of workers, and returns a context manager
            that gives what is called with every event.

    Returns:
        A report: ``rows`` is a frame with a row per kind of module and depth.

    Raises:
        CompatbenchError: an unknown name, towers of different sizes, or a fit that failed.
    """
    from compatbench.studies.depth import study_depth
    from compatbench.studies.depth_probe import RATES
    from compatbench.studies.study_setup import StudySetup

    setup = StudySetup.make(source, target, suite, device, out, jobs, watch)
    return study_depth(setup, tasks, shots, seeds, steps, rates or RATES)


def analyze_embeddings(
    source: str,
    target: str,
    *,
    suite: str | SuiteCard = "mini",
    tasks: Names | None = None,
    out: str | Path = ".",
    device: str = "auto",
) -> EmbeddingsReport:
    """How the classes' embeddings have moved, and whether that predicts what methods lose.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        tasks: all of the suite by default.
        out: the folder of ``results/``, which the losses are read from.

    Returns:
        A report: ``geometry`` has the figures of each task, ``predictions`` the rank correlations
        of each figure with each method's losses; it is empty without complete results.

    Raises:
        CompatbenchError: an unknown name, a broken results file, or missing images or weights.
    """
    from compatbench.studies.embeddings import study_embeddings
    from compatbench.studies.study_setup import StudySetup

    return study_embeddings(StudySetup.make(source, target, suite, device, out), tasks)


def analyze_gauge(
    source: str,
    target: str,
    *,
    suite: str | SuiteCard = "mini",
    tasks: Names | None = None,
    device: str = "auto",
) -> GaugeReport:
    """How much of an upgrade is a rotation of the joint space, by words and by test images.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        tasks: whose test images are used; all of the suite by default.

    Returns:
        A report: ``maps`` has a row for each map between the two spaces.

    Raises:
        CompatbenchError: an unknown name, or images or weights that are missing.
    """
    from compatbench.studies.gauge import study_gauge
    from compatbench.studies.study_setup import StudySetup

    return study_gauge(StudySetup.make(source, target, suite, device), tasks)


def analyze_stress(
    source: str,
    target: str,
    methods: Names,
    *,
    suite: str | SuiteCard = "mini",
    tasks: Names | None = None,
    angles: Sequence[float | None] | None = None,
    turns: int = 3,
    sizes: Sequence[int] | None = None,
    words: bool = False,
    shots: int | None = None,
    seeds: Sequence[int] | None = None,
    out: str | Path = ".",
    jobs: int | None = None,
    device: str = "auto",
    watch: Watch | None = None,
) -> StressReport:
    """What modules are worth on a target whose joint space was rotated or made narrower.

    Modules are fitted on the source, unless ``runs/`` has them, and attached by ``copied`` and,
    where they act on features, by ``words``.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        angles: largest angles of the rotations, in degrees; None is any rotation.
        turns: random rotations of each angle.
        sizes: narrower joint spaces, in place of rotations.
        words: use parts of the word list, in place of rotations.
        shots, seeds, out, jobs, watch: as in ``analyze_depth``.

    Returns:
        A report: ``points`` has a row for each method, transfer and change.

    Raises:
        CompatbenchError: an unknown name, a size that is not smaller, or a fit that failed.
    """
    from compatbench.studies.stress_test import ANGLES, study_stress
    from compatbench.studies.study_setup import StudySetup

    setup = StudySetup.make(source, target, suite, device, out, jobs, watch)
    angles = ANGLES if angles is None else angles
    return study_stress(setup, methods, tasks, angles, turns, sizes, words, shots, seeds)


def analyze_claims(suite: str | SuiteCard = "mini", out: str | Path = ".") -> list[ClaimsReport]:
    """The founding paper's claims (arXiv:2412.20895), each tested against a suite's results.

    Args:
        out: the folder of ``results/``.

    Returns:
        One report for each upgrade: ``findings`` has the effect of each claim, its interval and
        the verdict.

    Raises:
        CompatbenchError: an unknown suite, no results of it, or a broken results file.
    """
    from compatbench.data.cards import suite_cards
    from compatbench.studies.claims import study_claims

    card = suite_cards.read(suite) if isinstance(suite, str) else suite
    return study_claims(card, Path(out))
