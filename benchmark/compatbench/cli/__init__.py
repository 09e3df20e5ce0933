"""The command line: ``compatbench run | plan | check | evaluate | list | ...``."""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
import warnings

from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.messages import printable, write_what_fits

# Errors that the system may raise for any path. Another ``OSError`` is a bug of compatbench.
_OF_THE_SYSTEM = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO}


def main() -> None:
    """Run the command line. A user's mistake ends in one line and exit code 2."""
    write_what_fits(sys.stdout)
    write_what_fits(sys.stderr)
    # Our own warnings are one line each; those of libraries are for their developers.
    logging.basicConfig(level=logging.ERROR)
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", CompatbenchWarning)
    warnings.showwarning = lambda message, *_: _print_error(f"warning: {message}")
    # Looking for cycles of objects takes a tenth of the time of commands that read much.
    gc.set_threshold(50_000)
    from compatbench.cli.app import app

    try:
        app()
    except CompatbenchError as error:
        _print_error(str(error))
        sys.exit(2)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has left; that is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in _OF_THE_SYSTEM or error.filename is None:
            raise
        _print_error(f"cannot use {error.filename}: {error.strerror}")
        sys.exit(2)


def _print_error(text: str) -> None:
    line = " ".join(text.split("\n"))  # a name in it may contain a line break
    print(f"compatbench: {printable(line)}", file=sys.stderr)
