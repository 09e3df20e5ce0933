"""What the named configs of a suite change in the methods that they configure."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from compatbench.results.choice import judge_effect
from compatbench.results.estimate import estimate, interval_columns
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.ranking import rank_methods, rank_transfer
from compatbench.results.suite_results import SuiteResults
from compatbench.results.upgrade_rows import pair_rows, task_means

DIFFERENCES = ("source", "target", "h")  # measures of which configs have a difference


def compare_configs(
    results: SuiteResults,
    expected: Expected,
    upgrade: Upgrade,
    shots: int,
    configs: Mapping[str, str],
) -> pd.DataFrame:
    """Return a row for each method that is configured, then one for each config of it.

    * ``method``, ``title``: of the method or the config; ``base`` is the method that it
      configures, and empty for this method itself, or if it has no results.
    * ``diversity``: the mean distance of a module's prompts on the source, 0 to 2.
    * ``source``, ``target`` and ``h`` are the mean differences from ``base`` over datasets, in
      points, with the bounds of their 95 % intervals (``_low``, ``_high``), which are paired by
      dataset. ``source_decides`` and so on are True if an interval does not contain 0. All are NaN
      if anything is missing.

    Args:
        configs: the method of each named config, in the suite's order.
    """
    ranking = rank_transfer(rank_methods(results, expected, (upgrade,), shots))
    ranking = ranking.set_index("method")
    modules = ranking["module"].to_dict()
    rows = pair_rows(results, expected, upgrade, shots)
    means = {measure: task_means(rows, measure) for measure in DIFFERENCES}
    shown = [(base, "") for base in dict.fromkeys(configs.values())]
    shown += [(name, base if base in ranking.index else "") for name, base in configs.items()]
    compared = []
    for name, base in shown:
        if name not in ranking.index:
            continue
        method = ranking.loc[name]
        row = {"method": name, "title": method["title"], "base": base}
        row["diversity"] = method["diversity"]
        for measure, table in means.items():
            difference = None
            if base:
                module = modules[name]
                base_module = modules[base]
                if module in table.index and base_module in table.index:
                    difference = estimate(table.loc[module] - table.loc[base_module])
            row |= interval_columns(measure, difference)
            row[f"{measure}_decides"] = judge_effect(difference) != "cannot tell"
        compared.append(row)
    return pd.DataFrame(compared)
