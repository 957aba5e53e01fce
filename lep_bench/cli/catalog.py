"""`lep-bench list`: what there is to run and where it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lep_bench.cli.app import (
    AdapterFolders,
    ConfigFolders,
    HelpGroup,
    TaskFolders,
    app,
    print_table,
)

if TYPE_CHECKING:
    from lep_bench.config.schema import Family

lists = typer.Typer(
    cls=HelpGroup,
    help="List models, adapters, families, suites, tasks or paths.",
    no_args_is_help=True,
)
app.add_typer(lists, name="list")


@lists.command("models")
def list_models(
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN", help="all, a name, or a pattern such as 'mini-llama/*/conversion'."
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option("--suite", metavar="NAME", help="List the models of this suite.")
    ] = "mini",
    adapters: AdapterFolders = None,
    configs: ConfigFolders = None,
) -> None:
    """List the models that follow from a suite's families.

    A name is the model's way through the pipeline: FAMILY/VOCABULARY/METHOD+TUNING. ALL marks the
    models that `run --models all` runs: those made by the methods and tunings that a family lists,
    and by every adapter that is not shipped. Name the others, or match them with a pattern.

    \b
    lep-bench list models
    lep-bench list models 'mini-llama/*/conversion'
    lep-bench list models all --suite mini
    """
    from lep_bench import plugin
    from lep_bench.cli import display
    from lep_bench.config import models
    from lep_bench.config.load import Configs

    registry = plugin.discover_adapters(adapters or ())
    known = Configs.of(configs or ())
    chosen = known.suite(suite)
    in_all = models.list_all_names(chosen, known, registry)
    specs = (
        models.list_models(chosen, known, registry)
        if pattern is None
        else models.select_models([pattern], chosen, known, registry)
    )
    print_table(
        ["MODEL", "STAGE", "ALL"],
        [(spec.name, spec.stage, "yes" if spec.name in in_all else "") for spec in specs],
    )
    count = sum(spec.name in in_all for spec in specs)
    typer.echo(f"{len(specs)} models, {count} of them in `all` of suite {suite}", err=True)
    # What they are made from: a family's base and instruct, the donors of their vocabularies, and
    # baselines that are listed.
    names = {spec.name for spec in specs}
    roots = {spec.family for spec in specs if spec.family}
    roots |= {f"{spec.family}/{spec.vocabulary}" for spec in specs if spec.vocabulary}
    display.show_checkpoints(
        [
            checkpoint
            for checkpoint in models.list_checkpoints(chosen, known)
            if checkpoint.model in names or checkpoint.model.rpartition("/")[0] in roots
        ],
        err=True,
    )


@lists.command("adapters")
def list_adapters(adapters: AdapterFolders = None) -> None:
    """List every adapter: kind, name, origin, what it does.

    An adapter is a plugin that makes a vocabulary, propagates embeddings or tunes a model (not a
    LoRA adapter). Installed packages that cannot be loaded are listed below with the reason.

    \b
    lep-bench list adapters
    lep-bench list adapters --adapters my-adapters
    """
    from lep_bench import plugin

    registry = plugin.discover_adapters(adapters or ())
    entries = [registry.get(kind, name) for kind in plugin.KINDS for name in registry.names(kind)]
    print_table(
        ["KIND", "NAME", "ORIGIN", "WHAT IT DOES"],
        [(e.adapter.kind, e.adapter.name, e.origin, e.adapter.summary) for e in entries],
    )
    for package, reason in registry.broken.items():
        typer.echo(f"broken: {package}: {reason}")


@lists.command("families")
def list_families(configs: ConfigFolders = None) -> None:
    """List every family: base, instruct, vocabularies, methods.

    \b
    lep-bench list families --configs my-configs
    """
    from lep_bench.config.load import Configs

    known = Configs.of(configs or ())
    families = map(known.family, known.names("families"))
    print_table(
        ["FAMILY", "PART", "WHAT IT IS"],
        [(family.name, *row) for family in families for row in describe_family(family)],
    )


def describe_family(family: Family) -> Iterator[tuple[str, str]]:
    """The parts of a family and what each is."""
    yield "description", family.description
    corpus = family.corpus or "-"
    locations = {
        "base": family.base,
        "instruct": family.instruct,
        "corpus": corpus if isinstance(corpus, str) else ", ".join(corpus),
    }
    for role, location in locations.items():
        marks = ["gated"] if family.gated and role != "corpus" else []
        marks += ["unverified"] if role in family.unverified else []
        yield role, location + (f" ({', '.join(marks)})" if marks else "")
    for name, vocabulary in family.vocabularies.items():
        mark = " (unverified)" if vocabulary.unverified else ""
        yield (
            f"vocabulary {name}",
            f"donor {vocabulary.donor}{mark}" if vocabulary.donor else "made and trained here",
        )
    yield "propagation", ", ".join(family.propagation) or "-"
    yield "tuning", ", ".join(family.tuning) or "-"


@lists.command("suites")
def list_suites(configs: ConfigFolders = None) -> None:
    """List every suite: protocol, families, tasks, title.

    \b
    lep-bench list suites
    """
    from lep_bench.config.load import Configs

    known = Configs.of(configs or ())
    suites = map(known.suite, known.names("suites"))
    print_table(
        ["SUITE", "PROTOCOL", "FAMILIES", "TASKS", "TITLE"],
        [
            (s.name, s.protocol, ", ".join(s.families) or "-", str(len(s.tasks)), s.title)
            for s in suites
        ],
    )


@lists.command("tasks")
def list_tasks(folders: TaskFolders = None, configs: ConfigFolders = None) -> None:
    """List every task: version, the suites that use it, its file.

    Tasks are plain lm-eval tasks. Use --tasks-dir for a folder of your own.

    \b
    lep-bench list tasks
    lep-bench list tasks --tasks-dir my-tasks
    """
    from lep_bench import tasks
    from lep_bench.config.load import Configs

    known = Configs.of(configs or ())
    suites = [known.suite(name) for name in known.names("suites")]
    borrowed = tasks.lm_eval_folders(sorted({name for suite in suites for name in suite.lm_eval}))
    rows = []
    for name, task in sorted(tasks.scan_tasks((*(folders or ()), *borrowed)).tasks.items()):
        users = [suite.name for suite in suites if name in suite.tasks]
        # Of lm-eval's own tasks only those that a suite names.
        if users or not any(task.path.is_relative_to(folder) for folder in borrowed):
            rows.append((name, task.version, ", ".join(users) or "-", str(task.path)))
    print_table(["TASK", "VERSION", "SUITES", "FILE"], rows)


@lists.command("paths")
def list_paths(
    name: Annotated[
        str | None,
        typer.Argument(metavar="FOLDER", help="adapters, tasks, configs or leaderboards."),
    ] = None,
) -> None:
    """Print where lep-bench's own folders are.

    With FOLDER, print only its path.

    \b
    lep-bench list paths
    lm_eval run --include_path "$(lep-bench list paths tasks)" --tasks mini_facts_ru ...
    """
    from lep_bench import files

    if name is not None:
        typer.echo(str(files.shipped_folder(name)))
        return
    rows = [(folder, str(files.shipped_folder(folder))) for folder in files.FOLDERS]
    rows += [
        ("package", str(files.PACKAGE)),
        ("checkpoints", str(files.builtin_checkpoints())),
        ("runs", f"{Path('runs').absolute()} (another one: --out)"),
    ]
    print_table(["FOLDER", "PATH"], rows)
