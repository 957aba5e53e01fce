"""`lep-bench bundle`: everything that a suite needs, in one folder, to be carried to a machine
without a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lep_bench.cli.app import (
    AdapterFolders,
    ConfigFolders,
    DataFolder,
    TaskFolders,
    app,
    print_table,
    split_names,
)
from lep_bench.errors import CheckpointError, LepBenchError, RunFailedError, count_noun
from lep_bench.files import check_folder, format_size

if TYPE_CHECKING:
    from lep_bench.bundling import LocatedNeed, Need


Folders = Sequence[Path] | None


@app.command()
def bundle(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The folder to make, to complete or to check.", show_default=False
        ),
    ],
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="NAME,...",
            help="The suites whose rows (and models) are stored.",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        bool,
        typer.Option(
            "--models", help="Also the checkpoints of the suite's families and baselines."
        ),
    ] = False,
    wheels: Annotated[
        bool,
        typer.Option(
            "--wheels",
            help="Also a wheelhouse for this platform and Python, at the tested versions.",
        ),
    ] = False,
    listed: Annotated[
        bool,
        typer.Option("--list", help="Print what would be stored, and stop. Nothing is fetched."),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Prove the size and hash of every file without a network, and stop. With "
            "--suite: also whether all that the suite reads is there.",
        ),
    ] = False,
    data: DataFolder = None,
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
) -> None:
    """Store everything that a suite needs to run offline.

    Rows and dictionaries; on request also models and packages. DIR becomes a Hugging Face cache;
    bundle.json seals ids, commits, sizes, hashes, licences and gating. Every file is compared with
    the Hub's hash. Interrupted, the same command goes on.

    \b
    lep-bench bundle --suite darumeru DIR --list
    lep-bench bundle --suite darumeru DIR --models --wheels
    lep-bench bundle --check DIR
    lep-bench run --suite darumeru --data DIR --offline
    """
    suites = split_names(suite, "--suite") if suite is not None else []
    if check:
        check_bundle(folder, suites, models, configs, adapters, tasks_dir)
        return
    if not suites:
        raise LepBenchError("bundle: name the suites to store (--suite NAME), or add --check")
    from lep_bench import bundling

    check_folder(folder)
    if data is not None and not data.is_dir():
        raise LepBenchError(f"--data {data}: there is no such folder")
    needs = list_needs(suites, folder, models, configs, adapters, tasks_dir)
    needs = bundling.keep_revisions(needs, folder)
    located, missing = locate_needs(needs, data, listed)
    if listed:
        print_needs(needs, located, folder, wheels)
        for line in missing:
            typer.echo(line, err=True)
        return
    entries, refused = bundling.store(located, folder, typer.echo)
    missing += refused
    if wheels:
        entries.append(bundling.store_wheels(folder))
        typer.echo(
            f"stored: {count_noun(len(entries[-1].files), 'wheel')}, {entries[-1].bytes:,} bytes"
        )
    made = bundling.write_manifest(folder, suites, entries)
    typer.echo(
        f"{folder}: {count_noun(len(made.entries), 'entry')}, "
        f"{sum(entry.bytes for entry in made.entries):,} bytes"
    )
    for line in missing:
        typer.echo(f"missing: {line}", err=True)
    if missing:
        raise RunFailedError(
            f"the bundle lacks {count_noun(len(missing), 'thing')}: mend what is said above, "
            "the same command goes on"
        )
    check_rows(suites, folder, configs, adapters, tasks_dir)


def check_bundle(
    folder: Path,
    suites: Sequence[str],
    models: bool,
    configs: Folders,
    adapters: Folders,
    tasks_dir: Folders,
) -> None:
    """Print the findings of `--check`. Exits with 1 when there is a fault; raises LepBenchError for
    a folder without a manifest.
    """
    from lep_bench.bundle import MANIFEST, read_manifest, render_command
    from lep_bench.cli.doctor import check_manifest, check_suites, print_findings

    if read_manifest(folder) is None:
        raise LepBenchError(
            f"{folder} has no {MANIFEST} that says what it should hold; make a bundle with "
            f"{render_command(suites, 'NEW-DIR')}"
        )
    findings = list(
        check_suites(suites, folder, ["all"] if models else [], configs, adapters, tasks_dir)
        if suites
        else check_manifest(folder, "")
    )
    print_findings(findings)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def list_needs(
    suites: Sequence[str],
    folder: Path,
    models: bool,
    configs: Folders,
    adapters: Folders,
    tasks_dir: Folders,
) -> list[Need]:
    """What the suites read. Raises LepBenchError for unknown names and broken files."""
    from lep_bench import bundling, tasks
    from lep_bench.evaluate.lmeval import build_metadata
    from lep_bench.pipeline import prepare
    from lep_bench.pipeline.session import Session

    needs: list[Need] = []
    for name in suites:
        # Results of an earlier run must not hide what a run reads: a folder without any.
        session = Session.read(name, folder / "no-results", configs, adapters, tasks_dir)
        known = tasks.scan_tasks(session.task_folders)
        needs += bundling.list_dataset_needs(
            [known.get(task) for task in session.suite.tasks],
            known.folders,
            build_metadata(session.suite),
        )
        if models:
            read = prepare.list_read(session.plan(["all"]), session.checkpoints())
            needs += bundling.list_model_needs(read.values())
    return bundling.merge_needs(needs)


def check_rows(
    suites: Sequence[str], folder: Path, configs: Folders, adapters: Folders, tasks_dir: Folders
) -> None:
    """Read the rows of every task that reads them itself from the bundle, as a run will: faults are
    found while one can mend them. Raises RunFailedError after it printed what is wrong.
    """
    from lep_bench import tasks
    from lep_bench.bundle import use_data_folder
    from lep_bench.evaluate.lmeval import build_metadata, count_rows
    from lep_bench.pipeline.session import Session

    use_data_folder(folder, offline=False)
    faults = []
    for name in suites:
        session = Session.read(name, folder / "no-results", configs, adapters, tasks_dir)
        known = tasks.scan_tasks(session.task_folders)
        for task in map(known.get, session.suite.tasks):
            try:
                if task.own_class and task.dataset:
                    count_rows(task, known.folders, build_metadata(session.suite))
            except LepBenchError as error:
                faults.append(str(error))
    for line in faults:
        typer.echo(f"wrong: {line}", err=True)
    if faults:
        raise RunFailedError(
            f"the bundle is whole, but {count_noun(len(faults), 'task')} cannot be asked from its "
            "rows: mend what is said above"
        )


def locate_needs(
    needs: Sequence[Need], data: Path | None, listed: bool
) -> tuple[list[LocatedNeed], list[str]]:
    """Each need where it can be had: in the folder `data` first, then on the Hub. A line for each
    that cannot be had.

    Raises LepBenchError without a way to the Hub, except for a list: it says what is known.
    """
    from lep_bench import bundling, hub

    located: list[LocatedNeed] = []
    missing: list[str] = []
    reachable = True
    for need in needs:
        try:
            if need.kind == "dictionaries":
                one: LocatedNeed | None = bundling.locate_dictionaries(need)
            else:
                one = bundling.locate_in_folder(data, need) if data else None
            if one is None and reachable:
                one = bundling.locate_on_hub(need)
            located += [one] if one else []
        except hub.HubUnreachableError as error:
            if not listed:
                raise
            reachable = False
            missing.append(f"sizes are not known without the Hub: {error}")
        except CheckpointError as error:
            missing.append(str(error))
    return located, missing


def print_needs(
    needs: Sequence[Need], located: Sequence[LocatedNeed], folder: Path, wheels: bool
) -> None:
    """The table of `--list`."""
    from lep_bench import bundling
    from lep_bench.bundle import find_faults, read_manifest

    known = {(one.need.kind, one.need.id): one for one in located}
    old = read_manifest(folder)
    rows, missing, unknown = [], 0, 0
    for need in needs:
        one = known.get((need.kind, need.id))
        size = sum(file.bytes for file in one.files) if one else need.bytes
        entry = old.entry(need.kind, need.id) if old else None
        here = (
            one.is_stored(folder)
            if one
            else entry is not None and not find_faults(folder, entry, hashes=False)
        )
        if not here:
            missing, unknown = missing + (size or 0), unknown + (not size)
        state = "here" if here else "to fetch"
        if one and not one.commit and need.kind != "dictionaries":
            state = "here, an unproven copy" if here else "to copy, unproven"
        rows.append(
            (
                need.kind,
                need.id,
                (one.commit if one else None) or need.revision or "newest (not pinned)",
                str(len(one.files)) if one else "unknown",
                format_size(size) if size else "unknown",
                one.licence if one else need.licence,
                "yes" if (one.gated if one else need.gated) else "",
                state,
            )
        )
    if wheels:
        unknown += 1
        what = f"{len(bundling.list_requirements())} requirements and what they need"
        rows.append(
            ("wheels", what, "constraints.txt", "unknown", "unknown", "each its own", "", "")
        )
    if not rows:
        typer.echo("nothing: the suite's rows and models come with lep-bench")
        return
    print_table(["WHAT", "ID", "REVISION", "FILES", "BYTES", "LICENCE", "GATED", "HERE"], rows)
    sizes = [f"about {format_size(missing)}"] if missing else []
    sizes += [f"{count_noun(unknown, 'thing')} of unknown size"] if unknown else []
    if sizes:
        typer.echo(f"to fetch: {' and '.join(sizes)} into {folder}")
