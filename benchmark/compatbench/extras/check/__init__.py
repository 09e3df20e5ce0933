"""The conformance kit: the rules that every method must keep.

``check`` tries them in processes, on small random models. To read how: ``rules`` has the list of
the rules and tries one, ``fit_rules`` and ``attach_rules`` have the rules themselves. A host in
``check_host`` has a fresh process for every method; ``check_processes`` starts hosts.
"""

FUNCTIONS = {"check": "check:check"}
COMMANDS = ["check_command"]
