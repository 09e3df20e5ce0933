"""The conformance kit: the rules that every method must keep.

``check`` tries them in processes, on small random models. To read how: ``rules`` has the list of
the rules and tries one, ``fit_rules`` and ``attach_rules`` have the rules themselves, and
``processes`` starts a fresh process for every method.
"""

from compatbench.plugins import REQUIRED, Command, Option

FUNCTIONS = {"check": "check:check"}
COMMANDS = {
    "check": Command(
        "check",
        "add",
        shown="commands:check",
        note="For one method the output is a table of its checks; for several, one line each, and "
        "their failures at the end. To try one rule again: compatbench check ./mine.py --only "
        "class-order. Exits with 1 if a check fails.",
        options={"methods": Option("", default=REQUIRED)},
        also=("as_json",),
    ),
}
