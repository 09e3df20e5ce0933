"""Changed methods beside fixed references and their own figures at the base, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compatbench.data.shots import count_shots
from compatbench.pages.markdown import NOTHING, code, escape, percent, signed, spread, table
from compatbench.results.measures import Expected, compute_standing
from compatbench.results.store import MethodResults, split_transfers
from compatbench.transfer import COPIED

# The floor, the strongest plain method, and the method of the founding paper.
REFERENCES = ("zeroshot", "kgcoop", "contcoop")
HEADER = ["Method", "Source", "Target", "H", "Gain", "H at the base", "Change of H"]


def comparison_tables(
    expected: Expected,
    results: Mapping[str, MethodResults],
    base: Mapping[str, MethodResults],
    methods: Sequence[str],
) -> list[str]:
    """A table for each upgrade of a suite, of copied modules, at its largest number of shots.

    Args:
        results, base: the methods' rows, of all transfers.
        methods: whose figures may have changed.
    """
    results, base = _select_copied(results), _select_copied(base)
    shots = max(expected.shots)
    shown = [name for name in dict.fromkeys([*methods, *REFERENCES]) if name in results]
    lines: list[str] = []
    for upgrade in expected.upgrades:
        rows = []
        for name in shown:
            now = compute_standing(results[name], expected, upgrade, shots)
            h, gain = now.mean("h"), now.mean("gain")
            old = None
            if name in base:
                old = compute_standing(base[name], expected, upgrade, shots).mean("h")
            rows.append(
                [
                    f"{escape(name)}{'' if name in methods else ' (reference)'}",
                    spread(now.mean("source")),
                    spread(now.mean("target")),
                    spread(h) if h else escape(now.state),
                    signed(gain.value if gain else None),
                    percent(old.value) if old else NOTHING if name in base else "new",
                    signed(h.value - old.value) if h and old else NOTHING,
                ]
            )
        title = f"{code(upgrade[0])} → {code(upgrade[1])}, {count_shots(shots)}:"
        lines += ["", title, "", *table(HEADER, rows)]
    return lines


def _select_copied(methods: Mapping[str, MethodResults]) -> dict[str, MethodResults]:
    """The rows of copied modules, of every method that has some."""
    parts = {name: split_transfers(whole) for name, whole in methods.items()}
    return {name: part[COPIED] for name, part in parts.items() if COPIED in part}
