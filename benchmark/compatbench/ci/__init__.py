"""What is asked of a pull request, as one command that runs anywhere."""

from compatbench.ci.ci import Ci, check_change

__all__ = ["Ci", "check_change"]
