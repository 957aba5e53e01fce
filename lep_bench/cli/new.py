"""`lep-bench new`: write an adapter, a family or a task from the files in lep_bench/templates/."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from lep_bench.cli.app import AdapterFolders, ConfigFolders, HelpGroup, app
from lep_bench.errors import CheckpointError, ConfigError, LepBenchError
from lep_bench.files import check_folder

TEMPLATES = Path(__file__).parent.parent / "templates"

new = typer.Typer(
    cls=HelpGroup,
    help="Write a new adapter, family or task that works at once.",
    no_args_is_help=True,
)
app.add_typer(new, name="new")


def fill_template(name: str, words: Mapping[str, str]) -> str:
    """The text of a template with every placeholder, such as my_method or BASE, replaced."""
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    # In one pass: what stands for one placeholder may hold another.
    return re.sub("|".join(map(re.escape, words)), lambda match: words[match[0]], text)


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Letters, digits, . _ and -; it becomes part of models' names.",
        show_default=False,
    ),
]


@new.command()
def adapter(
    name: Name,
    kind: Annotated[
        Literal["propagation", "vocabulary", "tuning"],
        typer.Option("--kind", help="The step that the adapter provides."),
    ] = "propagation",
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to.")] = Path(
        "my-adapters"
    ),
) -> None:
    """Write a new adapter: one working file, and its test.

    \b
    lep-bench new adapter my-method
    lep-bench list models '*/my-method' --adapters my-adapters
    lep-bench run --models 'mini-llama/extended/*' --adapters my-adapters
    lep-bench new adapter my-words --kind vocabulary --to ../methods
    """
    from lep_bench import plugin
    from lep_bench.files import write_text

    check_name(name, "adapter")
    known = plugin.discover_adapters()
    if (kind, name) in known.entries:
        raise LepBenchError(
            f"there is a {kind} adapter {name!r} already ({known.entries[kind, name].origin}"
            "): choose another name"
        )
    function = make_identifier(name)
    file, test = to / f"{function}.py", to / f"test_{function}.py"
    refuse_existing(file, test)
    words = {"my-method": name, "my_method": function}
    write_text(file, fill_template(f"adapter/{kind}.py", words))
    write_text(test, fill_template("adapter/contract.py", words))
    plugin.load_adapters(file)
    typer.echo(f"written: {file}\nwritten: {test}\nto test it: python -m pytest {test}")
    if kind == "propagation":
        typer.echo(f"its models: lep-bench list models '*/{name}' --adapters {to}")
    elif kind == "tuning":
        typer.echo(f"its models: lep-bench list models '*+{name}' --adapters {to}")
    else:
        typer.echo(
            f"to use it: add `{name}: {{}}` to the `vocabularies` of a family (lep-bench new "
            f"family), and run with --adapters {to}"
        )


@new.command()
def family(
    name: Name,
    base: Annotated[
        str,
        typer.Option(
            "--base", metavar="PATH_OR_HUB_ID", help="The base model.", show_default=False
        ),
    ],
    instruct: Annotated[
        str,
        typer.Option(
            "--instruct",
            metavar="PATH_OR_HUB_ID",
            help="The instruct model tuned from it.",
            show_default=False,
        ),
    ],
    donor: Annotated[
        list[str] | None,
        typer.Option(
            "--donor",
            metavar="VOCABULARY=PATH_OR_HUB_ID",
            help="An existing donor (repeatable).",
            show_default=False,
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus",
            metavar="FILE",
            help="The text to make vocabularies and donors from.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="The config folder to write to.")
    ] = Path("my-configs"),
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
) -> None:
    """Write a new family, and a suite that runs it.

    Name existing donors with --donor, or a text to make them from with --corpus.

    \b
    lep-bench new family ruadapt --base ORG/BASE --instruct ORG/INSTRUCT \\
        --donor extended=ORGANISATION/DONOR
    lep-bench new family mine --base ./base --instruct ./instruct --corpus texts.txt
    lep-bench run --suite mine --configs my-configs --models all --dry-run
    """
    from lep_bench import plugin
    from lep_bench.config.load import Configs
    from lep_bench.config.models import select_models
    from lep_bench.files import write_text

    check_name(name, "family")
    folders = Configs.of(tuple(configs or ()))
    if name in folders.names("families"):
        raise LepBenchError(
            f"there is a family {name!r} already ({folders.file('families', name)}): choose "
            "another name"
        )
    files = (to / "families" / f"{name}.yaml", to / "suites" / f"{name}.yaml")
    refuse_existing(*files)
    donors = {
        vocabulary: resolve_location(location)
        for vocabulary, location in map(split_donor, donor or ())
    }
    base, instruct = resolve_location(base), resolve_location(instruct)
    check_models(base, instruct, donors)
    words = {
        "DESCRIPTION": quote_scalar(f"{instruct} with new vocabularies"),
        "BASE": quote_scalar(base),
        "INSTRUCT": quote_scalar(instruct),
    }
    if donors:
        template = "family/donors.yaml"
        words["  VOCABULARY: {}"] = "\n".join(
            f"  {vocabulary}: {{donor: {quote_scalar(location)}}}"
            for vocabulary, location in donors.items()
        )
    elif corpus is not None:
        template = "family/trained.yaml"
        words["CORPUS"] = quote_scalar(resolve_location(corpus))
    else:
        raise LepBenchError(
            "a family needs donors: give --donor VOCABULARY=PATH_OR_HUB_ID for an existing one, or "
            "--corpus FILE to make them from a text"
        )
    # The tasks and rules of the mini suite, under another title.
    mini = folders.file("suites", "mini").read_text(encoding="utf-8")
    rules = mini[mini.index("tasks:") :]
    try:
        write_text(files[0], fill_template(template, words))
        write_text(files[1], fill_template("family/suite.yaml", {"my-family": name}) + rules)
        known = Configs.of((to, *(configs or ())))
        registry = plugin.discover_adapters(adapters or ())
        specs = select_models(["all"], known.suite(name), known, registry)
    except LepBenchError:
        for file in files:
            file.unlink(missing_ok=True)
        raise
    typer.echo(
        f"written: {files[0]}\nwritten: {files[1]}\n{len(specs)} models: lep-bench list models "
        f"--suite {name} --configs {to}"
    )
    typer.echo(f"to run: lep-bench run --suite {name} --configs {to} --models all --dry-run")


@new.command()
def task(
    name: Name,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to.")] = Path(
        "my-tasks"
    ),
) -> None:
    """Write a new lm-eval task: YAML, rows, and the code that reads them.

    \b
    lep-bench new task my-questions
    lep-bench run --tasks my-questions --tasks-dir my-tasks --models 'mini-llama/instruct'
    """
    from lep_bench import tasks
    from lep_bench.files import write_text

    check_name(name, "task")
    known = tasks.scan_tasks()
    if name in known.tasks:
        raise LepBenchError(
            f"there is a task {name!r} already ({known.tasks[name].path}): choose another name"
        )
    folder = to / name
    templates = {
        folder / f"{name}.yaml": "task/my-task.yaml",
        folder / "utils.py": "task/utils.py",
        folder / "rows.jsonl": "task/rows.jsonl",
    }
    refuse_existing(*templates)
    for file, template in templates.items():
        write_text(file, fill_template(template, {"my-task": name}))
        typer.echo(f"written: {file}")
    tasks.scan_tasks((to,))
    typer.echo(
        f"to run it: lep-bench run --tasks {name} --tasks-dir {to} --models 'mini-llama/instruct'"
    )


def check_name(name: str, what: str) -> None:
    """Raise LepBenchError unless `name` can be part of a model's name and of a file's."""
    from lep_bench import files

    files.check_name(name, f"{what} name")
    if any(mark in name for mark in "+@="):
        raise LepBenchError(f"{what} name {name!r} may not contain + @ or =: model names use them")


def make_identifier(name: str) -> str:
    """A Python name for an adapter's function and file: my-method -> my_method."""
    word = re.sub(r"\W", "_", name, flags=re.ASCII)
    return word if word.isidentifier() and not keyword.iskeyword(word) else f"adapter_{word}"


def refuse_existing(*files: Path) -> None:
    """Raise LepBenchError when one of the files exists: nothing of the user's is overwritten."""
    for file in files:
        check_folder(file.parent, "--to")
        if file.exists():
            raise LepBenchError(
                f"{file} exists already: choose another name or another folder with --to"
            )


def split_donor(text: str) -> tuple[str, str]:
    """`VOCABULARY=PATH_OR_HUB_ID` as a pair."""
    vocabulary, mark, location = text.partition("=")
    if not mark or not vocabulary or not location:
        raise LepBenchError(
            f"--donor {text}: write it as VOCABULARY=PATH_OR_HUB_ID, for example extended=./donor"
        )
    check_name(vocabulary, "vocabulary")
    return vocabulary, location


def resolve_location(location: str) -> str:
    """A location of the command line for a YAML: an existing path in full, anything else as it is.

    A relative path in a YAML is relative to the YAML.
    """
    path = Path(location).expanduser()
    return str(path.resolve()) if location and path.exists() else location


def check_models(base: str, instruct: str, donors: dict[str, str]) -> None:
    """Raise CheckpointError for a local folder that is no checkpoint, and for shapes that differ.

    Hub ids are not looked up.
    """
    shapes: dict[str, tuple[object, ...]] = {}
    for what, location in {
        "base": base,
        "instruct": instruct,
        **{f"donor {key}": value for key, value in donors.items()},
    }.items():
        shape = read_shape(location)
        if shape is not None:
            shapes[f"{what} {location}"] = shape
    for label, shape in shapes.items():
        first = next(iter(shapes))
        if shape != shapes[first]:
            names = ("model type", "hidden size", "layers")
            differing = "; ".join(
                f"{n} {a} and {b}" for n, a, b in zip(names, shapes[first], shape) if a != b
            )
            raise CheckpointError(f"{first} and {label} do not belong together: {differing}")


def read_shape(location: str) -> tuple[object, ...] | None:
    """(model type, hidden size, layers) of a local or built-in checkpoint; None for a Hub id."""
    from lep_bench import hub

    folder = hub.find_local(location)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return tuple(config.get(key) for key in ("model_type", "hidden_size", "num_hidden_layers"))
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} is no checkpoint: it has no readable config.json"
        ) from error


def quote_scalar(text: str) -> str:
    """`text` as a YAML scalar: plain where that is safe."""
    if "\n" in text:
        raise ConfigError(f"{text!r}: one line is expected")
    return (
        text
        if re.fullmatch(r"[\w./~][\w./:~ -]*[\w./]|\w", text) and ": " not in text
        else json.dumps(text, ensure_ascii=False)
    )
