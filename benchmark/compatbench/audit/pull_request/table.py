"""Changed methods beside fixed references and their own figures at the base, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compatbench.data.shots import count_shots
from compatbench.pages.markdown import NOTHING, code, escape, percent, signed, spread, table
from compatbench.results.measures import Expected, Standing, compute_standing
from compatbench.results.store import MethodResults

# The floor, the strongest plain method, and the method of the founding paper.
REFERENCES = ("zeroshot", "kgcoop", "contcoop")


def comparison_tables(
    expected: Expected,
    results: Mapping[str, MethodResults],
    base: Mapping[str, MethodResults],
    methods: Sequence[str],
) -> list[str]:
    """A table for each upgrade of a suite, at its largest number of shots.

    Args:
        methods: whose figures may have changed.
    """
    shots = max(expected.shots)
    names = [*methods, *(name for name in REFERENCES if name not in methods)]
    shown = [name for name in names if name in results]
    lines: list[str] = []
    for source, target in expected.upgrades:
        rows = []
        for name in shown:
            now = compute_standing(results[name], expected, (source, target), shots)
            before = (
                compute_standing(base[name], expected, (source, target), shots)
                if name in base
                else None
            )
            mark = " (reference)" if name not in methods else ""
            rows.append([f"{escape(name)}{mark}", *_figures(now), *_changes(now, before)])
        lines += ["", f"{code(source)} → {code(target)}, {count_shots(shots)}:", ""]
        header = ["Method", "Source", "Target", "H", "Gain", "H at the base", "Change of H"]
        lines += table(header, rows)
    return lines


def _figures(standing: Standing) -> list[str]:
    gain = standing.mean("gain")
    return [
        spread(standing.mean("source")),
        spread(standing.mean("target")),
        spread(standing.mean("h")) if standing.mean("h") else escape(standing.state),
        signed(gain.value if gain else None),
    ]


def _changes(now: Standing, before: Standing | None) -> list[str]:
    new, old = now.mean("h"), before.mean("h") if before else None
    if old is None:
        return ["new" if before is None else NOTHING, NOTHING]
    return [percent(old.value), signed(new.value - old.value if new else None)]
