"""Errors and warnings whose message is one line for the user."""

from __future__ import annotations


class CompatbenchError(Exception):
    """A mistake that the user can correct. The message names the place, the field and the fix.

    The command line prints only the message, without a traceback, and exits with 2.
    """


class BackboneError(CompatbenchError):
    """A backbone that cannot be loaded, with the problem and what to do about it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        if self.problem.endswith("?"):
            return f"{self.problem} {self.fix[:1].upper()}{self.fix[1:]}"
        return f"{self.problem}; {self.fix}"


class MissingWeights(BackboneError):
    """A backbone whose weights are not on this machine."""


class FolderError(CompatbenchError):
    """A file or folder that cannot be written; no method is to blame for it."""


class CompatbenchWarning(UserWarning):
    """Something was repaired or left out; the run continues."""


class NotTransferable(Exception):
    """A module that has no meaning on a backbone; ``Method.attach`` raises it.

    For example, a residual over 512 image features on a backbone with 768. This is a result of the
    benchmark, and pages show it as one.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
