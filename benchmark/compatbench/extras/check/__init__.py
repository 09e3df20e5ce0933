"""The conformance kit: the rules that every method, and every transfer, must keep.

A rule is a pytest test in ``fit_checks``, ``attach_checks`` or ``transfer_checks``. Its name, less
``test_``, is the check's; the first line of its docstring says what must hold. They are tried on
small random models. ``compatbench check`` runs them in other processes; a test suite can collect
them, too:

    pytest -p compatbench.extras.check.plugin --checked taskres \
        --pyargs compatbench.extras.check.fit_checks compatbench.extras.check.attach_checks
"""

FUNCTIONS = {
    "check_methods": "run_checks:check_methods",
    "check_transfers": "run_checks:check_transfers",
}
