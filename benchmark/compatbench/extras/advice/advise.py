"""``advise``: from results, or from one module, to what its owner should do in an upgrade."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from compatbench.data.cards import SuiteCard, backbone_cards, select_names, suite_cards
from compatbench.engine.single_module import read_fitted
from compatbench.errors import CompatbenchError
from compatbench.extras.advice.cases import Case, evaluated_case, read_cases
from compatbench.extras.advice.verdicts import Advice
from compatbench.method import Module
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.plugins import load, open_address
from compatbench.results.evaluation import evaluate
from compatbench.results.expected import upgrade_pairs
from compatbench.results.ranking_table import Results

Names = str | Sequence[str]


def advise(
    suite: str | SuiteCard = "mini",
    methods: Names = "all",
    *,
    module: Module | str | Path | None = None,
    upgrade: Names | None = None,
    tasks: Names = "all",
    shots: int | None = None,
    out: str | Path = ".",
    device: str = "auto",
) -> Advice:
    """Whether to keep, port or retrain modules in an upgrade, with expected accuracies.

    Without ``module`` nothing is computed but what ``run`` has left in ``results/``.

    Args:
        suite: a name of ``suites()``, the path of a YAML file, or a card.
        methods: those with results that are asked about: names, globs, exclusions; beside a
            module the path of its method's file, if it is not among ``methods()``.
        module: of ``fit``, or the file of one. It is measured on the targets of the suite,
            untouched and through ``words``; what was run is not looked at.
        upgrade: (source, target), or "source,target", of those of the suite; by default all.
        tasks: of the suite, likewise; means are over these. Not with a module.
        shots: by default the most that the suite has. Not with a module.
        out: the folder of ``results/``.

    Returns:
        The verdicts: ``frame`` and ``ways`` have the figures, ``str()`` says it in words.

    Raises:
        CompatbenchError: no results, an unknown name, or an upgrade that the suite does not have.
    """
    if module is not None and (tasks != "all" or shots is not None):
        raise CompatbenchError(
            "a module is measured on the task and with the shots that it has: leave out tasks and "
            "shots"
        )
    card = suite_cards.read(suite)
    pairs = upgrade_pairs(card.upgrades)
    if upgrade is not None:
        parts = upgrade.split(",") if isinstance(upgrade, str) else upgrade
        asked = tuple(backbone_cards.resolve(part.strip()) for part in parts)
        if asked not in pairs:
            known = ", ".join(map(" → ".join, pairs))
            raise CompatbenchError(
                f"suite '{card.name}' has no upgrade {' → '.join(asked)}; it has {known}"
            )
        pairs = ((asked[0], asked[1]),)
    if module is not None:
        return Advice(tuple(_evaluate(module, methods, pairs, card.name, device)))
    of_suite: Results = load("results")(card, out)
    learning = sorted({method.info.name for method in of_suite.suite.all if method.info.learns})
    of = f"of suite '{card.name}'"
    chosen = select_names(methods, learning, f"method with modules in the results {of}")
    if tasks != "all":
        known = of_suite.expected.measured_tasks
        of_suite = of_suite.restrict(select_names(tasks, known, f"task {of}"))
    if shots is not None:
        of_suite = of_suite.restrict(shots=[shots])
    cases = (read_cases(of_suite.suite, of_suite.expected, pair, chosen) for pair in pairs)
    return Advice(tuple(chain.from_iterable(cases)))


def _evaluate(
    module: Module | str | Path,
    methods: Names,
    pairs: Sequence[tuple[str, str]],
    suite: str,
    device: str,
) -> Iterator[Case]:
    given = open_address(module)
    file = (
        None if methods == "all" else ",".join([methods] if isinstance(methods, str) else methods)
    )
    _, fitted = read_fitted(given)
    targets = [target for source, target in pairs if source == fitted.source]
    if not targets:
        raise CompatbenchError(
            f"the module was fitted on '{fitted.source}'; suite '{suite}' has no such upgrade of "
            "it: give the suite of yours, --suite"
        )
    for target in targets:
        evaluations = [evaluate(given, target, methods=file, device=device)]
        if find_transfer("words").serves(builtin_methods().get(fitted.method).card):
            how = {"transfer": "words", "methods": file, "device": device}
            evaluations.append(evaluate(given, target, **how))
        yield evaluated_case(evaluations)
