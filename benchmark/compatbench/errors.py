"""What can go wrong, in one line for the user."""

from __future__ import annotations


class CompatbenchError(Exception):
    """A mistake in the input that the user can correct: names the place, the field and the fix.

    The command line prints the message alone, without a traceback, and exits with 2.
    """


class BackboneError(CompatbenchError):
    """A backbone that cannot be loaded as asked: the problem, and what to do about it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem, self.fix = problem, fix

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}"


class MissingWeights(BackboneError):
    """A backbone whose weights are not on this machine."""


class CompatbenchWarning(UserWarning):
    """Something was repaired or left out; the run continues."""


class NotTransferable(Exception):
    """Raised by ``Method.attach`` when a module has no meaning on a backbone.

    For example, a residual over 512 image features on a backbone with 768.
    This is a result of the benchmark, and shown as such.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
