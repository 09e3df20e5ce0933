"""Fits and judges what ``compatbench predict`` predicts with: docs/predict.md, and what ships.

The rows are those that ``predict_rows.py`` has collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pages import Page, show_interval
from predict_rows import PLACE, RIVALS, ROWS
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from compatbench.data.cards import COPIED
from compatbench.extras.studies.frames import StudyReport
from compatbench.files.hashes import sha256_bytes
from compatbench.method.registry import gate_transfer
from compatbench.results.estimate import Array, estimate
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.numbers import percent
from compatbench.tables.table import Column, Table, make_table, plain_table, records, text
from compatbench.transfers._shared.survival import (
    FILE,
    LEVEL,
    WORDS,
    Estimator,
    Knowledge,
    describe_kinds,
    name_upgrade,
    scale_of,
    to_json,
)

SHIPPED = Path("..", "transfers", "_shared", FILE)  # from docs/
ALPHA = 30.0  # the ridge's, for standardised features
FLOOR = 0.02  # added to d for the scale of a residual
FAMILY_LEVEL = 0.85  # of the gains of every family of methods that intervals hold
FAMILIES = ("text-input", "text-layers", "image-layers", "feature", "classifier")
TOGETHER = ("upgrade", "family", "task")
MODULE = [name for name in PLACE if name != "transfer"]  # its rows are its ways to a target
# Two models of which neither is an upgrade of the other: their zero-shot is next to equal.
NEAR_EQUAL = ("mini-clip", "mini-clip-next")
TITLES = {"images": "ridge, unlabelled images", "models": "ridge, models alone"}
Mask = NDArray[np.bool_]
Splits = Iterable[tuple[Mask, Mask]]  # what is judged, and what it is judged by, ``[rows]`` each


class Inputs(NamedTuple):
    """What a ridge is fitted on; ``floor`` is that of ``Estimator``."""

    features: Sequence[str]
    floor: float | None


TWO = Inputs(("differ", "sides_source"), FLOOR)  # of a ridge that is as simple as may be


def read_rows(path: Path = ROWS) -> pd.DataFrame:
    """The rows that are committed, with the features that are products of others."""
    rows = pd.read_csv(path)
    return add_groups(rows.assign(**describe_kinds(rows, rows)))


def add_groups(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with their upgrade and their family.

    A family is the last place at which a module acts, on the way from a text to a classifier:
    methods that act at several are few, so that they make no family of their own.
    """
    flags = rows.reindex(columns=FAMILIES, fill_value=0.0).to_numpy() > 0
    families = [FAMILIES[here.nonzero()[0].max(initial=0)] for here in flags]
    return rows.assign(upgrade=name_upgrade(rows["source"], rows["target"]), family=families)


def list_inputs(rows: pd.DataFrame) -> dict[Knowledge, Inputs]:
    """Those of each estimator; in the rows features of answers stand before the module's."""
    others = (*PLACE, "upgrade", "family", "gain", "gated", *RIVALS)
    names = [name for name in rows if name not in others]
    models = names.index("text-input")
    kinds = [name for name in names if name.startswith("differ ")]
    alone = tuple(name for name in names[models:] if name not in kinds)
    return {"images": Inputs((*names[:models], *kinds), FLOOR), "models": Inputs(alone, None)}


def fit_ridge(rows: pd.DataFrame, inputs: Inputs) -> Estimator:
    """A ridge regression of the gain, without an interval; each row weighs 1 / its scale."""
    features, floor = inputs
    values = rows[list(features)].to_numpy(float)
    sizes = np.maximum(values.std(0), 1e-9)
    ridge = Ridge(alpha=ALPHA, fit_intercept=floor is None)
    ridge.fit(values / sizes, rows["gain"], sample_weight=1 / scale_of(rows, floor))
    weights = tuple((ridge.coef_ / sizes).tolist())
    return Estimator(tuple(features), weights, float(ridge.intercept_), 0.0, floor)


def split_rows(*keys: ArrayLike) -> Iterator[tuple[Mask, Mask]]:
    """Rows that are alike in all keys, in turn, and those that are unlike them in each."""
    codes = [pd.factorize(np.asarray(key))[0] for key in keys]
    for values in np.unique(np.stack(codes), axis=1).T:
        alike = [code == value for code, value in zip(codes, values, strict=True)]
        yield np.logical_and.reduce(alike), ~np.logical_or.reduce(alike)


def split_by(rows: pd.DataFrame, by: str = "upgrade") -> Iterator[tuple[Mask, Mask]]:
    """All ``by`` but one, in turn.

    ``model`` is that of the target, of which nothing is known as a source either; ``together``
    means that each of ``TOGETHER`` is another.
    """
    keys = {"together": TOGETHER, "model": ("target",)}.get(by, (by,))
    for judged, rest in split_rows(*(rows[key] for key in keys)):
        if by == "model":
            rest &= ~rows["source"].isin(rows["target"][judged]).to_numpy()
        yield judged, rest


def leave_out(rows: pd.DataFrame, inputs: Inputs, splits: Splits) -> Array:
    """Gains that models without a row's upgrade (or method, or target) estimate, ``[rows]``."""
    gains = np.zeros(len(rows))
    for judged, rest in splits:
        gains[judged] = fit_ridge(rows[rest], inputs).estimate(rows[judged])
    return gains


def width_of(rows: pd.DataFrame, inputs: Inputs) -> float:
    """Half an interval, for a unit of scale: the 90 % quantile of residuals, upgrades left out.

    With n residuals, the ⌈0.9 (n + 1)⌉-th smallest; or where the gains of a family of methods are
    further off, as much as holds 85 % of them.
    """
    residuals = np.abs(rows["gain"] - leave_out(rows, inputs, split_by(rows)))
    residuals /= scale_of(rows, inputs.floor)
    widths = residuals.groupby(rows["family"]).apply(lambda family: _quantile(family, FAMILY_LEVEL))
    return max(_quantile(residuals, LEVEL), float(widths.max()))


def _quantile(residuals: pd.Series, level: float) -> float:
    rank = min(int(np.ceil(level * (len(residuals) + 1))), len(residuals))
    return float(np.sort(residuals)[rank - 1])


def find_held(rows: pd.DataFrame, inputs: Inputs, by: str = "upgrade") -> Mask:
    """Which gains lie in intervals whose model and width are of other rows alone, ``[rows]``."""
    splits, widths = [*split_by(rows, by)], np.zeros(len(rows))
    for judged, rest in splits:
        widths[judged] = width_of(rows[rest], inputs)
    errors = np.abs(rows["gain"] - leave_out(rows, inputs, splits))
    return (errors <= widths * scale_of(rows, inputs.floor) + 1e-12).to_numpy()


def follow(rows: pd.DataFrame, estimates: Array) -> pd.Series:
    """What the way gains that is expected to gain most, or 0 where none is, by upgrade.

    Rows of one module on one target are its ways. The mean over modules of each upgrade.
    """
    ordered = rows.assign(expected=estimates).sort_values("expected")
    chosen = ordered.groupby([*MODULE, "upgrade"]).tail(1)
    return chosen["gain"].where(chosen["expected"] > 0, 0.0).groupby(chosen["upgrade"]).mean()


@dataclass(frozen=True)
class SurvivalReport(StudyReport):
    """How well gains are predicted without the upgrade, or the method, that is judged.

    Attributes:
        table: as ``collect_rows`` gives it, with the columns ``images`` and ``models``: gains
            estimated without the row's upgrade; and ``held`` and ``held_family``, whether the gain
            is in the interval of ``images`` without the upgrade, or without the family.
        scores: a row for each estimate; errors and what intervals hold in percent.
        accuracy: gains over zero-shot by upgrade, a column for each policy.
    """

    table: pd.DataFrame
    scores: pd.DataFrame
    accuracy: pd.DataFrame

    def tables(self) -> list[Table]:
        """Scores, what intervals hold by family, and policies."""
        return [self._scores(), self._families(), self._policies()]

    def _scores(self) -> Table:
        head = (
            f"{len(self.table):,} gains of modules, copied or through words, on "
            f"{self.table['upgrade'].nunique()} upgrades, of which "
            f"{100 * (self.table['gain'] < 0).mean():.0f} % are losses; "
            f"{self.table['method'].nunique()} methods. Errors in points, intervals in percent."
        )
        apart = (
            "With images, upgrades left out, single upgrades have an AUROC of "
            f"{self._range(_rank_harm, 2)}; intervals hold in "
            f"{self._range(lambda rows: 100 * rows['held'].mean(), 0)} % of their gains."
        )
        share = "{:.3f}".format
        columns = [
            Column("title", "Estimate", left=True),
            Column("without", "Left out", left=True),
            Column("error", "Error", show=percent),
            Column("auroc", "AUROC", show=share),
            Column("auroc_large", "AUROC ≥ 2", show=share),
            Column("held", "Intervals hold", show=percent),
        ]
        return make_table(columns, records(self.scores), caption=text(head), notes=(apart,))

    def _families(self) -> Table:
        groups = self.table.groupby("family")
        held = 100 * groups[["held", "held_family"]].mean()
        rows = [
            [family, f"{count:,}", *(f"{share:.0f}" for share in held.loc[family])]
            for family, count in groups.size().items()
        ]
        header = ["Modules act last at", "Gains", "Upgrade left out", "Family left out"]
        head = "How many percent of the gains of each family intervals hold:"
        return plain_table(header, rows, caption=head)

    def _policies(self) -> Table:
        rows = []
        for name in self.accuracy:
            gains = 100 * self.accuracy[name]
            beside = [
                "" if name == rival else _over_units(gains - 100 * self.accuracy[rival])
                for rival in ("always copy", "never copy")
            ]
            rows.append([name, _over_units(gains), *beside])
        # Of modules of which no way is expected to gain, the share; related models, and others.
        best = self.table.groupby(["unrelated", *MODULE])["images"].max()
        fallen = 100 * (best <= 0).groupby("unrelated").mean()
        notes = [
            "Upgrades share models, so these intervals are rather too narrow.",
            f"The advice falls back to zero-shot for {fallen[1]:.0f} % of the modules where the "
            f"target is unrelated to the source, and for {fallen[0]:.0f} % elsewhere.",
        ]
        header = ["Policy", "Gain over zero-shot", "Beside always copy", "Beside never copy"]
        head = "Means over upgrades in points, with 95 % intervals over upgrades:"
        return plain_table(header, rows, caption=head, notes=[*notes, *self._gates()])

    def _gates(self) -> list[str]:
        lines = []
        for way, ran in self.table.dropna(subset="gated").groupby("transfer"):
            suites = ", ".join(ran["suite"].unique())
            means = 100 * ran.groupby("upgrade")[["gated", "gain"]].mean()
            gated = means["gated"]
            lines.append(
                f"Measured as the transfer {gate_transfer(way)} ({suites}), from training images "
                f"without labels: {_over_units(gated)} over zero-shot, and "
                f"{_over_units(gated - means['gain'])} beside the same modules without "
                "the gate."
            )
            near = [" → ".join(pair) for pair in (NEAR_EQUAL, NEAR_EQUAL[::-1])]
            if {*near} <= {*gated.index}:
                rest = _over_units(gated.drop(near))
                lines[-1] += f" Without the upgrades between {' and '.join(NEAR_EQUAL)}: {rest}."
        return lines

    def _range(self, measure: Callable[[pd.DataFrame], float], digits: int) -> str:
        """The least and the most of a figure over upgrades."""
        figures = [measure(rows) for _, rows in self.table.groupby("upgrade")]
        return f"{min(figures):.{digits}f} to {max(figures):.{digits}f}"

    def shown(self) -> Shown:
        """Predicted against measured gains, and what policies gain on each upgrade."""
        names = ["source", "target", "method", "transfer"]
        means = (100 * self.table.groupby(names)[["images", "gain"]].mean()).round(2)
        policies = ("always copy", "advice, unlabelled images", "best in hindsight")
        ordered = 100 * self.accuracy.sort_values("always copy", ascending=False)
        gains = [
            {"upgrade": str(upgrade).replace("mini-", ""), "series": name, "gain": gain}
            for name in policies
            for upgrade, gain in ordered[name].round(2).items()
        ]
        return Shown([*means.to_dict("records"), *gains], {"series": policies})


def _rank_harm(rows: pd.DataFrame) -> float:
    return float(roc_auc_score(rows["gain"] < 0, -rows["images"]))


def _over_units(values: pd.Series) -> str:
    interval = estimate(values)
    assert interval is not None
    return show_interval(interval)


LESS = "the fewer answers it changes"
_FITTED = ("ridge of two features", "mean gain of the method")


def simple_estimates(rows: pd.DataFrame) -> dict[str, Array]:
    """What the features must be better than; fitted ones without the row's upgrade."""
    means = np.zeros(len(rows))
    for judged, rest in split_by(rows):
        known = rows[rest].groupby(["method", "transfer"])["gain"].mean()
        keys = pd.MultiIndex.from_frame(rows.loc[judged, ["method", "transfer"]])
        means[judged] = known.reindex(keys).fillna(0.0)
    return {
        "ridge of two features": leave_out(rows, TWO, split_by(rows)),
        "mean gain of the method": means,
        LESS: -rows["differ"].to_numpy(),
    }


def judge(rows: pd.DataFrame) -> SurvivalReport:
    """Every estimate without the upgrade, the method and the model that it is judged on."""
    rows, scores = rows.reset_index(drop=True), []
    harm = (rows["gain"] < 0).to_numpy()
    large = (rows["gain"].abs() >= 0.02).to_numpy()

    def score(title: str, estimates: Array, without: str = "", held: Mask | None = None) -> None:
        scores.append(
            {
                "title": title,
                "without": without,
                # A share of images orders modules, and is no gain.
                "error": None if title == LESS else 100 * np.abs(estimates - rows["gain"]).mean(),
                "auroc": roc_auc_score(harm, -estimates),
                "auroc_large": roc_auc_score(harm[large], -estimates[large]),
                "held": None if held is None else 100 * held.mean(),
            }
        )

    inputs, estimated = list_inputs(rows), rows
    for name, known in inputs.items():
        for by in ("upgrade", "method", "model", "task"):
            estimates, held = leave_out(rows, known, split_by(rows, by)), find_held(rows, known, by)
            score(TITLES[name], estimates, by, held)
            if by == "upgrade":
                columns = {name: estimates} | ({"held": held} if name == "images" else {})
                estimated = estimated.assign(**columns)
        # Widths without all three would take as many fits again for each.
        together = leave_out(rows, known, split_by(rows, "together"))
        score(TITLES[name], together, f"{', '.join(TOGETHER[:-1])} and {TOGETHER[-1]}")
    estimated = estimated.assign(held_family=find_held(rows, inputs["images"], "family"))
    for title, estimates in simple_estimates(rows).items():
        score(title, estimates, "upgrade" if title in _FITTED else "")
    for name, title in RIVALS.items():
        score(title, rows[name].to_numpy())
    ways, copied = estimated["gain"].to_numpy(), estimated[estimated["transfer"] == COPIED]
    words = (estimated["transfer"] == WORDS).to_numpy()
    policies = {
        "always copy": follow(copied, np.ones(len(copied))),
        "never copy": follow(copied, np.zeros(len(copied))),
        "always words where they serve": follow(estimated, 1.0 + words),
        "gated (copied or zero-shot)": follow(copied, copied["images"].to_numpy()),
        "advice, models alone": follow(estimated, estimated["models"].to_numpy()),
        "advice, unlabelled images": follow(estimated, estimated["images"].to_numpy()),
        "best in hindsight": follow(estimated, ways),
    }
    return SurvivalReport(estimated, pd.DataFrame(scores), pd.DataFrame(policies))


def fit_shipped(rows: pd.DataFrame) -> dict[tuple[Knowledge, str], Estimator]:
    """The estimators of all rows, and of those without an upgrade, for each upgrade.

    Widths are from estimators without one more upgrade.
    """
    estimators, upgrades = {}, rows["upgrade"]
    for name, inputs in list_inputs(rows).items():
        for left_out in ("", *sorted(upgrades.unique())):
            seen = rows[upgrades != left_out]
            fitted = fit_ridge(seen, inputs)
            weights = tuple(float(f"{value:.6g}") for value in fitted.weights)
            numbers = round(fitted.intercept, 6), round(width_of(seen, inputs), 6)
            estimators[name, left_out] = Estimator(fitted.features, weights, *numbers, fitted.floor)
    return estimators


def make_page() -> Page:
    """The section of the page, its picture, and the estimators that ship."""
    rows = read_rows()
    provenance = {
        "rows": sha256_bytes(ROWS.read_bytes()),
        "suites": {suite: int((rows["suite"] == suite).sum()) for suite in rows["suite"].unique()},
        "script": "benchmark/research/predict_page.py",
        "ridge": ALPHA,
        "level": LEVEL,
    }
    report, shipped = judge(rows), to_json(fit_shipped(rows), provenance)
    figures = {"predict/gains.svg": report.shown()}
    return Page({"scores": report.markdown()}, figures, {str(SHIPPED): shipped})
