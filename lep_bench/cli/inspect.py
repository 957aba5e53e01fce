"""Commands that only look: adapters, families, models, tasks, where."""

from __future__ import annotations

from typing import Annotated

import typer

from lep_bench.cli.app import AdapterFolders, ConfigFolders, TaskFolders, app, print_table


@app.command()
def adapters(folders: AdapterFolders = None) -> None:
    """List every adapter: kind, name, origin, what it does.

    An adapter is a plugin that makes a vocabulary, propagates embeddings or tunes a model (not a
    LoRA adapter). Installed packages that could not be loaded stand below the list with the reason.

    \b
    Examples:
      lep-bench adapters
      lep-bench adapters --adapters my-adapters
    """
    from lep_bench import plugin
    from lep_bench.plugin import KINDS

    found = plugin.discover_adapters(tuple(folders or ()))
    entries = [found.get(kind, name) for kind in KINDS for name in found.names(kind)]
    print_table(
        ["KIND", "NAME", "ORIGIN", "WHAT IT DOES"],
        [(e.adapter.kind, e.adapter.name, e.origin, e.adapter.summary) for e in entries],
    )
    for package, why in found.broken.items():
        typer.echo(f"broken: {package}: {why}")


@app.command()
def families(configs: ConfigFolders = None) -> None:
    """List every family: base, instruct, vocabularies, methods.

    \b
    Example:
      lep-bench families --configs my-configs
    """
    from lep_bench.config.load import Configs

    found = Configs.of(tuple(configs or ()))
    rows = []
    for name in found.names("families"):
        family = found.family(name)
        rows.append((name, "description", family.description))
        corpus = (
            ", ".join(family.corpus) if isinstance(family.corpus, tuple) else family.corpus or "-"
        )
        for role, location in {
            "base": family.base,
            "instruct": family.instruct,
            "corpus": corpus,
        }.items():
            gated = family.gated and role != "corpus"
            marks = ", ".join(
                mark
                for mark, true in (("gated", gated), ("unverified", role in family.unverified))
                if true
            )
            rows.append((name, role, location + (f" ({marks})" if marks else "")))
        for key, given in family.vocabularies.items():
            made = (
                "made and trained here"
                if given.donor is None
                else f"donor {given.donor}{' (unverified)' if given.unverified else ''}"
            )
            rows.append((name, f"vocabulary {key}", made))
        rows += [
            (name, part, ", ".join(getattr(family, part)) or "-")
            for part in ("propagation", "tuning")
        ]
    print_table(["FAMILY", "PART", "WHAT IT IS"], rows)


@app.command()
def models(
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN", help="all, a name, or a pattern such as 'mini-llama/*/conversion'."
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option("--suite", metavar="NAME", help="The suite whose families are meant.")
    ] = "mini",
    folders: AdapterFolders = None,
    configs: ConfigFolders = None,
) -> None:
    """List the models that follow from a suite's families.

    A name is the model's way through the pipeline: FAMILY/VOCABULARY/METHOD+TUNING. The column ALL
    says whether `run --models all` means this model. It means the methods and tunings a family
    lists, and every adapter that is not shipped; the rest is run by name or pattern.

    \b
    Examples:
      lep-bench models
      lep-bench models 'mini-llama/*/conversion'
      lep-bench models all --suite mini
    """
    from lep_bench import plugin
    from lep_bench.cli import checkpoints
    from lep_bench.config.load import Configs
    from lep_bench.config.models import list_checkpoints as named
    from lep_bench.config.models import list_models, names_of_all, select_models

    found = plugin.discover_adapters(tuple(folders or ()))
    known = Configs.of(tuple(configs or ()))
    chosen = known.suite(suite)
    usual = names_of_all(chosen, known, found)
    listed = (
        list_models(chosen, known, found)
        if pattern is None
        else select_models([pattern], chosen, known, found)
    )
    print_table(
        ["MODEL", "STAGE", "ALL"],
        [(model.name, model.stage, "yes" if model.name in usual else "") for model in listed],
    )
    typer.echo(
        f"{len(listed)} models, {sum(model.name in usual for model in listed)} of them in "
        f"`all` of suite {suite}",
        err=True,
    )
    # What they are made from: a family's base and instruct, the donors of their vocabularies, and
    # baselines that are listed.
    names = {model.name for model in listed}
    roots = {model.family for model in listed if model.family} | {
        f"{model.family}/{model.vocabulary}" for model in listed if model.vocabulary
    }
    checkpoints.show_checkpoints(
        [
            c
            for c in named(chosen, known)
            if c.model in names or c.model.rpartition("/")[0] in roots
        ],
        err=True,
    )


@app.command()
def tasks(folders: TaskFolders = None, configs: ConfigFolders = None) -> None:
    """List every task: version, the suites that use it, its file.

    Tasks are plain lm-eval tasks; a folder of your own is looked at with --tasks-dir.

    \b
    Examples:
      lep-bench tasks
      lep-bench run --tasks my-task --tasks-dir my-tasks --models 'mini-llama/*'
    """
    from lep_bench.config.load import Configs
    from lep_bench.tasks import lm_eval_folders, scan_tasks

    known = Configs.of(tuple(configs or ()))
    suites = [known.suite(name) for name in known.names("suites")]
    borrowed = lm_eval_folders(sorted({folder for suite in suites for folder in suite.lm_eval}))
    found = scan_tasks((*(folders or ()), *borrowed))
    rows = []
    for name, task in sorted(found.tasks.items()):
        used = [suite.name for suite in suites if name in suite.tasks]
        # lm-eval's: those that a suite names
        if used or not any(task.path.is_relative_to(folder) for folder in borrowed):
            rows.append((name, task.version, ", ".join(used) or "-", str(task.path)))
    print_table(["TASK", "VERSION", "SUITES", "FILE"], rows)


@app.command()
def where(
    name: Annotated[
        str | None,
        typer.Argument(metavar="FOLDER", help="adapters, tasks, configs or leaderboards."),
    ] = None,
) -> None:
    """Print where lep-bench's own folders are.

    \b
    Examples:
      lep-bench where
      lm_eval run --include_path "$(lep-bench where tasks)" --tasks mini_facts_ru ...
    """
    from pathlib import Path

    from lep_bench import files

    if name is not None:
        typer.echo(str(files.shipped_folder(name)))
        return
    rows = [(folder, str(files.shipped_folder(folder))) for folder in files.FOLDERS]
    rows += [
        ("package", str(files.PACKAGE)),
        ("checkpoints", str(files.builtin_checkpoints())),
        ("runs", f"{Path('runs').absolute()} (--out elsewhere)"),
    ]
    print_table(["FOLDER", "PATH"], rows)
