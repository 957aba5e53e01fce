"""The command line: `lep-bench COMMAND`. Parsing and printing only; what a command needs is
imported inside it.
"""

from __future__ import annotations

import platform
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path

# Each module adds its commands to `app`.
from lep_bench.cli import (  # noqa: F401
    adapt,
    bundle,
    catalog,
    check,
    compare,
    contamination,
    doctor,
    leaderboard,
    new,
    prompts,
    publish,
    run,
)
from lep_bench.cli.app import app
from lep_bench.errors import LepBenchError, RunFailedError

__all__ = ["app", "main"]

FAILED, REFUSED, BUG = 1, 2, 70  # 70: EX_SOFTWARE of sysexits.h


def main() -> None:
    """The console script. Its exit codes:

    0 done; 1 some cells failed, `check` found errors or `gate` failed; 2 refused, nothing was done;
    70 a bug of ours, with its traceback in a log file; 130 and 143 interrupted.
    """
    try:
        app(prog_name="lep-bench")
    except LepBenchError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(FAILED if isinstance(error, RunFailedError) else REFUSED)
    except Exception as error:  # whatever is not a LepBenchError is a bug
        if "--debug" in sys.argv:
            traceback.print_exc()
        else:
            print(f"bug: {describe_bug(error)}", file=sys.stderr, flush=True)
        sys.exit(BUG)


def describe_bug(error: Exception) -> str:
    """One line about a bug; the traceback goes to a log file, whose path the line names."""
    from lep_bench import __version__, files

    what = " ".join(f"{type(error).__name__}: {error}".split())
    log = Path(tempfile.gettempdir()) / f"lep-bench-{time.time_ns()}.log"
    header = (
        f"lep-bench {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{shlex.join(sys.argv)}\n\n"
    )
    try:
        files.write_text(log, header + "".join(traceback.format_exception(error)))
    except (OSError, LepBenchError):
        return f"{what}. This is a fault in lep-bench; --debug prints the traceback"
    return f"{what}. This is a fault in lep-bench; please report it with {log}"
