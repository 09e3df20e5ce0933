"""The conformance kit: the rules that every method must keep.

``check`` tries them in processes, on small random models. To read how: ``rules`` has the list of
the rules and tries one, ``fit_rules`` and ``attach_rules`` have the rules themselves, and
``processes`` starts a fresh process for every method.
"""

FUNCTIONS = {"check": "check:check"}
COMMANDS = ["check_command"]
