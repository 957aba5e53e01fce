"""reproduce: the earlier name of leaderboards/paper/ledger.py."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Annotated

import typer

from lep_bench.cli.app import Out, app
from lep_bench.errors import LepBenchError
from lep_bench.files import check_folder


@app.command(hidden=True)
def reproduce(
    suite: Annotated[str, typer.Option("--suite", metavar="NAME")] = "paper",
    out: Out = Path("runs"),
    page: Annotated[bool, typer.Option("--page")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Run leaderboards/paper/ledger.py, which compares your results with the paper's figures."""
    from lep_bench import files

    if suite != "paper":
        raise LepBenchError(f"--suite {suite}: no figures are quoted for it, only for paper")
    check_folder(out, "--out")
    script = files.shipped_folder("leaderboards") / "paper" / "ledger.py"
    flags = [*["--page"] * page, *["--json"] * as_json]
    command = " ".join(["python", str(script), "--out", str(out), *flags])
    typer.echo(f"`lep-bench reproduce` is now `{command}`; the old name goes in 0.3", err=True)
    raise typer.Exit(runpy.run_path(str(script))["main"](["--out", str(out), *flags]))
