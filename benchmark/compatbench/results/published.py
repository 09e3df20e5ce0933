"""Figures that papers and repositories publish, and what is measured beside them.

They are in ``results/published/*.csv``, one a line with its source; the README there says what the
columns mean. Figures of one protocol, ``all classes``, are compared with results.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from math import sqrt
from pathlib import Path

import pandas as pd

from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import shipped_results
from compatbench.messages import first_line
from compatbench.results.expected import Expected
from compatbench.results.method_results import SuiteResults
from compatbench.results.result_files import PUBLISHED
from compatbench.results.standing import Standing, compute_standing

PROTOCOL = "all classes"
COLUMNS = ["method", "task", "test_set", "shots", "measured", "measured_std", "published"]
COLUMNS += ["low", "high", "difference", "chance", "verdict", "sources"]


def read_published() -> pd.DataFrame:
    """Every published figure: ``accuracy`` in percent, and the other columns of the files."""
    return _read_folder(shipped_results(PUBLISHED))


@cache
def _read_folder(folder: Path) -> pd.DataFrame:
    counts = dict.fromkeys(("shots", "seeds", "images", "classes"), "Int64")
    try:
        frames = [pd.read_csv(path) for path in sorted(folder.glob("*.csv"))]
        return pd.concat(frames, ignore_index=True).astype(counts)
    except (ValueError, KeyError, OSError) as error:
        raise CompatbenchError(f"{folder} cannot be read: {first_line(error)}") from None


def compare_published(
    results: SuiteResults, expected: Expected, source: str, shots: int
) -> pd.DataFrame:
    """What was measured on ``source`` beside what is published for it, where both are there.

    A row is a method on a test set, methods by name and test sets in the suite's order.
    ``measured`` is the mean over seeds and ``published`` that over sources, whose figures are from
    ``low`` to ``high``; all are in percent. The verdict is ``differs`` if the measurement is
    outside of that range by more than ``chance`` (see ``_chance``), ``agrees`` if not, and
    ``one seed`` where nothing is known of the spread over seeds.
    """
    figures = read_published()
    wanted = (figures["protocol"] == PROTOCOL) & (figures["backbone"] == source)
    figures = figures.loc[wanted & (figures["shots"].isna() | (figures["shots"] == shots))]
    published = dict(iter(figures.groupby(["method", "test_set"])))
    rows = []
    for (method, results_of), where in product(
        sorted(results.methods.items()), expected.test_sets(expected.tasks)
    ):
        # Beside figures of few-shot classification; a protocol's other test sets are none.
        if expected.protocol != "few-shot" and where[0] != where[1]:
            continue
        if (same := published.get((method, where[1]))) is None:
            continue
        standing = compute_standing(results_of, expected, (source, source), shots, (where,))
        if (mean := standing.mean("source")) is None:
            continue
        values = same["accuracy"].to_numpy(float)
        middle, low, high = map(float, (values.mean(), values.min(), values.max()))
        chance, outside = _chance(standing, same), max(low - mean.value, mean.value - high)
        # NaN is neither.
        verdict = "differs" if outside > chance else "one seed"
        verdict = "agrees" if outside <= chance else verdict
        about = (mean.value, mean.std, middle, low, high, mean.value - middle, chance, verdict)
        rows.append((method, *where, shots, *about, "; ".join(sorted(same["source"]))))
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS)).astype({"measured_std": "float64"})


def _chance(standing: Standing, figures: pd.DataFrame) -> float:
    """By how many points seeds and the size of the test set let two means differ, in 95 of 100.

    chance² = t² (s²/n + s'²/k) + 1.96² p (1 − p) / N

    with standard deviations s over the n measured seeds and s' over the k published ones, which
    are s and n where the source does not say; Student's t for n − 1 degrees of freedom; and the
    share p of N test images that are right. Of several sources the one with the largest s'²/k
    counts. NaN if s is not known; a method that learns nothing has none.
    """
    from scipy.special import stdtrit

    seeds, mean = len(standing.seeds), standing.mean("source")
    assert mean is not None
    share, images = mean.value / 100, standing.column("source", "total").min()
    binomial = 1.96 * 100 * sqrt(share * (1 - share) / images)
    if not standing.info.learns:
        return binomial
    if mean.std is None:
        return float("nan")
    theirs = figures["std"].fillna(mean.std) ** 2 / figures["seeds"].fillna(seeds).astype(float)
    spread = stdtrit(seeds - 1, 0.975) * sqrt(mean.std**2 / seeds + theirs.max())
    return float(sqrt(spread**2 + binomial**2))
