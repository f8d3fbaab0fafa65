"""The command line: the same functions as from Python, each printing for people, or JSON with --json."""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path

import typer

from planish.cli import adapters, choice, distil, gold, line, models, pruning, records, rows, vocabulary  # noqa: F401
from planish.cli.options import app as app
from planish.cli.rows import CONVERTS_TO as CONVERTS_TO
from planish.errors import InputError, PlanishError, Problem
from planish.progress import heed_interrupts

UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""What the operating system says of a path that the user gave and that cannot be written or read."""

INTERRUPTED = 130
"""What typer makes of Ctrl-C."""


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 it failed while running, 2 the input or recipe is wrong and nothing was run, 3 a gate said no."""
    # threads that spin long at a barrier starve each other when another process wants a core; must be set before torch loads
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it warns that a hub kernel is absent, which is not needed
    heed_interrupts()
    try:
        status = app(standalone_mode=False)
    except PlanishError as refused:
        _fail(refused)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as failed:
        if type(failed).__module__.startswith(("click", "typer")) and hasattr(failed, "show"):
            failed.show()
            sys.exit(2)
        from tempfile import gettempdir

        from planish.store.objects import disk_error

        named = getattr(failed, "filename", None)
        if isinstance(full := disk_error(failed, Path(named or f"the output, or a temporary file in {gettempdir()}")), PlanishError):
            _fail(full)
        if isinstance(failed, OSError) and failed.errno in UNUSABLE and failed.filename:
            path = Path(failed.filename2 or failed.filename)
            where = path.parent if path.name.startswith(".") else path  # not the name under which a file is written aside
            _fail(InputError(Problem(str(where), f"cannot be used: {failed.strerror}", "check the path, and who may read and write there")))
        raise
    if status == INTERRUPTED:
        typer.echo("interrupted; give the same command again to go on", err=True)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(refused: PlanishError) -> None:
    for problem in refused.problems:
        typer.echo(str(problem), err=True)
    sys.exit(refused.exit_code)
