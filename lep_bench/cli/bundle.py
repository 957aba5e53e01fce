"""`lep-bench bundle`: everything that a suite needs, in one folder, to be carried to a machine
without a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from lep_bench.config.schema import Suite
    from lep_bench.origins import Folder, LocatedNeed, Need


@app.command()
def bundle(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The folder to make, or to complete.", show_default=False
        ),
    ],
    suite: Annotated[
        str,
        typer.Option(
            "--suite", metavar="NAME,...", help="The suites whose rows (and models) are stored."
        ),
    ],
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
    data: DataFolder = None,
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
) -> None:
    """Store everything that a suite needs to run offline.

    Rows and dictionaries; on request also models and packages.

    Every file is checked against the Hub's hash; bundle.json lists ids, revisions, bytes, hashes,
    licences and gating. Interrupted, the same command goes on. Then: lep-bench doctor --offline
    --suite NAME --data DIR.

    \b
    lep-bench bundle --suite darumeru bundle --list
    lep-bench bundle --suite darumeru bundle --models --wheels
    """
    from lep_bench import bundling, origins

    check_folder(folder)
    suites = split_names(suite, "--suite")
    needs = bundling.keep_revisions(
        wanted(suites, folder, models, configs, adapters, tasks_dir), folder
    )
    local = origins.Folder(data) if data is not None else None
    found, missing = find(needs, local, listed)
    if listed:
        show(needs, found, folder, wheels)
        for line in missing:
            typer.echo(line, err=True)
        return
    entries, refused = bundling.store(found, folder, typer.echo)
    if wheels:
        entries.append(bundling.wheels(folder))
        typer.echo(
            f"stored: {count_noun(len(entries[-1].files), 'wheel')}, {entries[-1].bytes:,} bytes"
        )
    made = bundling.write(folder, suites, entries)
    typer.echo(
        f"{folder}: {count_noun(len(made.entries), 'entry')}, "
        f"{sum(entry.bytes for entry in made.entries):,} bytes"
    )
    for line in (*missing, *refused):
        typer.echo(f"missing: {line}", err=True)
    if not (missing or refused):
        asked_of(suites, folder, configs, adapters, tasks_dir)
    if missing or refused:
        raise RunFailedError(
            f"the bundle has all but {len(missing) + len(refused)}: mend what is said above, "
            "the same command goes on"
        )


Folders = Sequence[Path] | None


def wanted(
    suites: Sequence[str],
    folder: Path,
    models: bool,
    configs: Folders,
    adapters: Folders,
    tasks_dir: Folders,
) -> list[Need]:
    """What the suites read. Raises LepBenchError for unknown names and broken files."""
    from lep_bench import bundling, tasks
    from lep_bench.pipeline import checkpoints
    from lep_bench.pipeline.session import Session

    needs: dict[tuple[str, str], Need] = {}
    for name in suites:
        # Results of an earlier run must not hide what a run reads: a folder without any.
        given = Session.read(name, folder / "no-results", configs, adapters, tasks_dir)
        known = tasks.scan_tasks(given.task_folders)
        found = bundling.of_tasks(
            [known.get(task) for task in given.suite.tasks], known.folders, metadata(given.suite)
        )
        if models:
            found += bundling.of_models(
                checkpoints.list_read(given.plan(["all"]), given.checkpoints()).values()
            )
        for need in found:
            needs[need.kind, need.id] = bundling.joined(needs.get((need.kind, need.id)), need)
    return list(needs.values())


def asked_of(
    suites: Sequence[str], folder: Path, configs: Folders, adapters: Folders, tasks_dir: Folders
) -> None:
    """Read the rows of every task that reads them itself from the bundle, as a run will: what no
    run would take is found while one can mend it.
    """
    from lep_bench import tasks
    from lep_bench.bundle import use_data_folder
    from lep_bench.evaluate.rows import count_rows
    from lep_bench.pipeline.session import Session

    use_data_folder(folder, offline=False)
    wrong = []
    for name in suites:
        given = Session.read(name, folder / "no-results", configs, adapters, tasks_dir)
        known = tasks.scan_tasks(given.task_folders)
        for file in map(known.get, given.suite.tasks):
            try:
                if file.own_class and file.dataset:
                    count_rows(file, known.folders, metadata(given.suite))
            except LepBenchError as error:
                wrong.append(str(error))
    for line in wrong:
        typer.echo(f"cannot be asked: {line}", err=True)
    if wrong:
        raise RunFailedError(
            f"the bundle is whole, but {count_noun(len(wrong), 'task')} cannot be asked from its "
            "rows: mend what is said above"
        )


def metadata(suite: Suite) -> dict[str, Any]:
    """What the suite's tasks are given in a run, as far as it decides which rows they read."""
    return {**suite.metadata, "protocol": suite.protocol}


def find(
    needs: Sequence[Need], local: Folder | None, listed: bool
) -> tuple[list[LocatedNeed], list[str]]:
    """Each need where it can be had: the local folder first, then the Hub. What cannot be had as
    one line each.

    Raises LepBenchError without a way to the Hub, except for a list: it says what is known.
    """
    from lep_bench import bundling, hub, origins

    found: list[LocatedNeed] = []
    missing: list[str] = []
    unreachable: LepBenchError | None = None
    for need in needs:
        try:
            here = (
                bundling.dictionaries(need)
                if need.kind == "dictionaries"
                else local.find(need)
                if local
                else None
            )
            if here is None and unreachable is None:
                here = origins.Hub().find(need)
            found += [here] if here else []
        except hub.HubUnreachableError as error:
            if not listed:
                raise
            unreachable = error
            missing.append(f"sizes are not known without the Hub: {error}")
        except CheckpointError as error:
            missing.append(str(error))
    return found, missing


def show(needs: Sequence[Need], found: Sequence[LocatedNeed], folder: Path, wheels: bool) -> None:
    """The table of `--list`."""
    from lep_bench import bundle, bundling
    from lep_bench.bundle import read_manifest

    known = {(one.need.kind, one.need.id): one for one in found}
    old = read_manifest(folder)
    rows, missing, unknown = [], 0, 0
    for need in needs:
        one = known.get((need.kind, need.id))
        licence, gated = (one.licence, one.gated) if one else (need.licence, need.gated)
        count = sum(file.bytes for file in one.files) if one else need.bytes
        entry = old.entry(need.kind, need.id) if old else None
        here = (
            bundling.here(one, folder)
            if one
            else entry is not None and not bundle.find_faults(folder, entry, hashes=False)
        )
        missing, unknown = missing + (0 if here else count or 0), unknown + (not here and not count)
        state = "here" if here else "to fetch"
        if one and not one.commit and need.kind != "dictionaries":
            state = "here, an unproven copy" if here else "to copy, unproven"
        rows.append(
            (
                need.kind,
                need.id,
                (one.commit if one and one.commit else need.revision) or "newest (not pinned)",
                str(len(one.files)) if one else "unknown",
                format_size(count) if count else "unknown",
                licence,
                "yes" if gated else "",
                state,
            )
        )
    if wheels:
        count = len(bundling.requirements())
        unknown += 1
        rows.append(
            (
                "wheels",
                f"{count} requirements and what they need",
                "constraints.txt",
                "unknown",
                "unknown",
                "each its own",
                "",
                "",
            )
        )
    if not rows:
        typer.echo("nothing: the suite's rows and models come with lep-bench")
        return
    print_table(["WHAT", "ID", "REVISION", "FILES", "BYTES", "LICENCE", "GATED", "HERE"], rows)
    if missing or unknown:
        more = (
            f"{' and ' if missing else ''}{count_noun(unknown, 'thing')} of unknown size"
            if unknown
            else ""
        )
        typer.echo(
            f"to fetch: {f'about {format_size(missing)}' if missing else ''}{more} into {folder}"
        )
