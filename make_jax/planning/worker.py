"""The process that compiles: a list of jobs as JSON on stdin, one line of JSON on stdout for each.

Compilers are chosen by the environment, before jax is imported, and what they print and how they die is theirs alone:
hence a process of its own. See `commands/plan.py` for the environment.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Compile each job; a line is {"compiled": ...} or {"error": "the one line for the user"}."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the compilers print is no answer
    from make_jax.errors import UserError
    from make_jax.planning.compiling import compile_job
    from make_jax.planning.jobs import Job, to_json

    for tree in json.load(sys.stdin):
        answer: dict[str, Any]
        try:
            answer = {"compiled": to_json(compile_job(Job.from_json(tree)))}
        except UserError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
