"""The command line: `lep-bench COMMAND`. Parsing and printing only; what a command needs is
imported inside it.
"""

from __future__ import annotations

import sys

# Each module adds its commands to `app`; the order is the order of the help.
# isort: off
from lep_bench.cli.app import app
from lep_bench.cli import run, leaderboard, compare, gate, adapt, vocabulary, tokenizer  # noqa: F401
from lep_bench.cli import check, inspect, prompts, new, doctor  # noqa: F401
from lep_bench.cli import bundle, contamination, publish, reproduce  # noqa: F401
from lep_bench.errors import LepBenchError, RunFailedError
# isort: on

__all__ = ["app", "main"]

FAILED, MISTAKE = 1, 2


def main() -> None:
    """The console script. Exit codes: 0 done, 1 some cells of a run failed, 2 a mistake the user
    can mend, 130 interrupted (see `Commands`).

    Everything that is not a LepBenchError is a bug of ours and shows its traceback.
    """
    try:
        app(prog_name="lep-bench")
    except RunFailedError as error:
        _say(f"error: {error}")
        sys.exit(FAILED)
    except LepBenchError as error:
        _say(f"error: {error}")
        sys.exit(MISTAKE)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
