"""How commands end in an error: one line that says what, where and how to mend it, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

_NO_SPACE = "free some space or choose another place, then run the command again"
_NO_RIGHT = "ask for the right to it or choose another place"
_NO_FOLDER = "a file is where a folder has to be; choose another place or move the file away"
_MOUNTED = "a whole file system cannot be replaced; name a folder inside it"
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
    errno.EISDIR: "a folder is where a file has to be; name a file",
    errno.ENOENT: "check the path",
    errno.EBUSY: _MOUNTED,
    errno.EXDEV: _MOUNTED,
}


class Command(click.Command):
    """Turns the errors that users can mend into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        from data_pipelines.errors import DataError
        from make_jax.errors import UserError

        try:
            return super().invoke(ctx)
        except (UserError, DataError) as error:
            stop(str(error), 2)
        except OSError as error:
            if error.errno not in _REMEDIES:
                raise
            # A write that fails does not say to which file, but there is one place that a command writes to.
            place = error.filename or ctx.params.get("out") or ctx.params.get("workdir")
            where = f"{place}: " if place else ""
            stop(f"{where}{os.strerror(error.errno)}; {_REMEDIES[error.errno]}", 2)


class Commands(click.Group):
    """A group of such commands."""

    command_class = Command


def stop(message: str, code: int) -> None:
    """Say on stderr what is wrong, and exit."""
    click.echo(f"make-jax: error: {message}", err=True)
    sys.exit(code)
