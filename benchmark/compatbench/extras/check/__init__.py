"""The conformance kit: the rules that every method must keep.

A rule is a pytest test in ``fit_checks`` or ``attach_checks``. Its name, less ``test_``, is the
check's; the first line of its docstring says what must hold. They are tried on
small random models. ``compatbench check`` runs them in other processes; a test suite can collect
them, too:

    pytest -p compatbench.extras.check.plugin --checked taskres \
        --pyargs compatbench.extras.check.fit_checks compatbench.extras.check.attach_checks
"""

from compatbench.plugins import REQUIRED, Command, Option

FUNCTIONS = {
    "check_methods": "run_checks:check_methods",
}
COMMANDS = {
    "check": Command(
        "check_methods",
        "add",
        shown="commands:check",
        note="For one method the output is a table of its checks; for several, one line each, and "
        "their failures at the end. To try one rule again: compatbench check ./mine.py --only "
        "class-order. Exits with 1 if a check fails.",
        options={"methods": Option("", default=REQUIRED)},
        also=("as_json",),
    ),
}
