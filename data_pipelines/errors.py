"""The error that means: the user's data or flags are wrong, and here is how to mend them."""

from __future__ import annotations


class DataError(Exception):
    """Input that cannot be used; the message is one line saying what, where and how to mend it.

    Command-line tools print the message and exit with code 2.
    """
