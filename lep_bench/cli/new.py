"""`lep-bench new adapter|family|task`: files that work at once, to be changed by hand."""

from __future__ import annotations

import json
import keyword
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from lep_bench.cli.app import AdapterFolders, ConfigFolders, check_folder
from lep_bench.cli.app import new as app
from lep_bench.errors import CheckpointError, ConfigError, LepBenchError

Name = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, . _ and -; models are called by it.", show_default=False)]


@app.command()
def adapter(
    name: Name,
    kind: Annotated[Literal["propagation", "vocabulary", "tuning"], typer.Option("--kind", help="Which step it provides.")] = "propagation",
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to.")] = Path("my-adapters"),
) -> None:
    """Write a new adapter: one working file, and its test.

    \b
    Examples:
      lep-bench new adapter my-method
      lep-bench models '*/my-method' --adapters my-adapters
      lep-bench run --models 'mini-llama/extended/*' --adapters my-adapters
      lep-bench new adapter my-words --kind vocabulary --to ../methods
    """
    from lep_bench import atomic, registry
    from lep_bench.cli import templates

    check_name(name, "adapter")
    known = registry.discover()
    if (kind, name) in known.entries:
        raise LepBenchError(f"there is a {kind} adapter {name!r} already ({known.entries[kind, name].origin}): choose another name")
    function = identifier(name)
    file, test = to / f"{function}.py", to / f"test_{function}.py"
    refuse_existing(file, test)
    template = {"propagation": templates.PROPAGATION, "vocabulary": templates.VOCABULARY, "tuning": templates.TUNING}[kind]
    atomic.write_text(file, templates.fill(template, name=name, function=function))
    atomic.write_text(test, templates.fill(templates.TEST, name=name, function=function, file=file.name))
    registry.load_file(file)
    typer.echo(f"written: {file}\nwritten: {test}\nits test: python -m pytest {test}")
    if kind == "propagation":
        typer.echo(f"its models: lep-bench models '*/{name}' --adapters {to}")
    elif kind == "tuning":
        typer.echo(f"its models: lep-bench models '*+{name}' --adapters {to}")
    else:
        typer.echo(f"to use it: add `{name}: {{}}` under `vocabularies` of a family (lep-bench new family), and give --adapters {to}")


@app.command()
def family(
    name: Name,
    base: Annotated[str, typer.Option("--base", metavar="PATH_OR_HUB_ID", help="The base model.", show_default=False)],
    instruct: Annotated[str, typer.Option("--instruct", metavar="PATH_OR_HUB_ID", help="The instruct model tuned from it.", show_default=False)],
    donor: Annotated[
        list[str] | None, typer.Option("--donor", metavar="VOCABULARY=PATH_OR_HUB_ID", help="A donor that exists (repeatable).", show_default=False)
    ] = None,
    corpus: Annotated[
        str | None, typer.Option("--corpus", metavar="FILE", help="Text to make vocabularies and donors from.", show_default=False)
    ] = None,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The config folder to write to.")] = Path("my-configs"),
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
) -> None:
    """Write a new family, checked, and a suite that runs it.

    Give the donors that exist with --donor, or a text with --corpus to make them.

    \b
    Examples:
      lep-bench new family ruadapt --base mistralai/Mistral-7B-v0.1 --instruct openchat/openchat-3.5-0106 \\
          --donor extended=ORGANISATION/DONOR
      lep-bench new family mine --base ./base --instruct ./instruct --corpus texts.txt
      lep-bench run --suite mine --configs my-configs --models all --dry-run
    """
    from lep_bench import atomic, registry
    from lep_bench.cli import templates
    from lep_bench.config import Configs, select

    check_name(name, "family")
    folders = Configs.of(tuple(configs or ()))
    if name in folders.names("families"):
        raise LepBenchError(f"there is a family {name!r} already ({folders.file('families', name)}): choose another name")
    files = (to / "families" / f"{name}.yaml", to / "suites" / f"{name}.yaml")
    refuse_existing(*files)
    donors = {vocabulary: placed(location) for vocabulary, location in map(split_donor, donor or ())}
    base, instruct, corpus = placed(base), placed(instruct), corpus and placed(corpus)
    check_models(base, instruct, donors)
    if donors:
        rows = "\n".join(f"  {vocabulary}: {{donor: {quoted(location)}}}" for vocabulary, location in donors.items())
        text = templates.fill(templates.DONOR_FAMILY, vocabularies=rows)
    elif corpus is not None:
        text = templates.fill(templates.TRAINED_FAMILY, corpus=quoted(corpus))
    else:
        raise LepBenchError("a family needs donors: --donor VOCABULARY=PATH_OR_HUB_ID for one that exists, or --corpus FILE to make them from a text")
    text = templates.fill(text, description=quoted(f"{instruct} with new vocabularies"), base=quoted(base), instruct=quoted(instruct))
    rest = folders.file("suites", "mini").read_text(encoding="utf-8")
    rest = rest[rest.index("tasks:") :]  # the tasks and rules of the mini suite, under another title
    try:
        atomic.write_text(files[0], text)
        atomic.write_text(files[1], templates.fill(templates.SUITE, name=name, rest=rest))
        made = Configs.of((to, *(configs or ())))
        listed = select(["all"], made.suite(name), made, registry.discover(tuple(adapters or ())))
    except LepBenchError:
        for file in files:
            file.unlink(missing_ok=True)
        raise
    typer.echo(f"written: {files[0]}\nwritten: {files[1]}\n{len(listed)} models: lep-bench models --suite {name} --configs {to}")
    typer.echo(f"to run: lep-bench run --suite {name} --configs {to} --models all --dry-run")


@app.command()
def task(name: Name, to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to.")] = Path("my-tasks")) -> None:
    """Write a new lm-eval task: its YAML, its rows and the code that reads them.

    \b
    Examples:
      lep-bench new task my-questions
      lep-bench run --tasks my-questions --tasks-dir my-tasks --models 'mini-llama/instruct'
    """
    from lep_bench import atomic, taskfiles
    from lep_bench.cli import templates

    check_name(name, "task")
    known = taskfiles.scan()
    if name in known.tasks:
        raise LepBenchError(f"there is a task {name!r} already ({known.tasks[name].path}): choose another name")
    folder = to / name
    contents = {f"{name}.yaml": templates.fill(templates.TASK, name=name), "utils.py": templates.TASK_UTILS, "rows.jsonl": templates.TASK_ROWS}
    refuse_existing(*(folder / file for file in contents))
    for file, text in contents.items():
        atomic.write_text(folder / file, text)
        typer.echo(f"written: {folder / file}")
    taskfiles.scan((to,))
    typer.echo(f"to run it: lep-bench run --tasks {name} --tasks-dir {to} --models 'mini-llama/instruct'")


def check_name(name: str, what: str) -> None:
    """Raise LepBenchError unless `name` can stand in a model's name and in a file's."""
    from lep_bench import paths

    paths.safe(name, f"{what} name")
    if any(mark in name for mark in "+@="):
        raise LepBenchError(f"{what} name {name!r} may not hold + @ or =: model names use them")


def identifier(name: str) -> str:
    """A Python name for an adapter's function and file: my-method -> my_method."""
    made = re.sub(r"\W", "_", name, flags=re.ASCII)
    return made if made.isidentifier() and not keyword.iskeyword(made) else f"adapter_{made}"


def refuse_existing(*files: Path) -> None:
    """Raise LepBenchError when one of the files is there: nothing of the user's is overwritten."""
    for file in files:
        check_folder(file.parent, "--to")
        if file.exists():
            raise LepBenchError(f"{file} exists already: choose another name or another folder with --to")


def split_donor(text: str) -> tuple[str, str]:
    """`VOCABULARY=PATH_OR_HUB_ID` as a pair."""
    vocabulary, mark, location = text.partition("=")
    if not mark or not vocabulary or not location:
        raise LepBenchError(f"--donor {text}: write it as VOCABULARY=PATH_OR_HUB_ID, for example extended=./donor")
    check_name(vocabulary, "vocabulary")
    return vocabulary, location


def placed(location: str) -> str:
    """`location` with the whole path of what is here: in a YAML a path is relative to the YAML, on the command line to where one is."""
    path = Path(location).expanduser()
    return str(path.resolve()) if location and path.exists() else location


def check_models(base: str, instruct: str, donors: dict[str, str]) -> None:
    """Raise CheckpointError for local folders that are no checkpoints or whose shapes differ. Hub ids are not looked up."""
    shapes: dict[str, tuple[object, ...]] = {}
    for what, location in {"base": base, "instruct": instruct, **{f"donor {key}": value for key, value in donors.items()}}.items():
        shape = read_shape(location)
        if shape is not None:
            shapes[f"{what} {location}"] = shape
    for label, shape in shapes.items():
        first = next(iter(shapes))
        if shape != shapes[first]:
            names = ("model type", "hidden size", "layers")
            differing = "; ".join(f"{n} {a} and {b}" for n, a, b in zip(names, shapes[first], shape) if a != b)
            raise CheckpointError(f"{first} and {label} do not belong together: {differing}")


def read_shape(location: str) -> tuple[object, ...] | None:
    """(model type, hidden size, layers) of a local or built-in checkpoint; None for a Hub id."""
    from lep_bench import sources

    folder = sources.local(location)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return tuple(config.get(key) for key in ("model_type", "hidden_size", "num_hidden_layers"))
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder} is no checkpoint: it has no readable config.json") from error


def quoted(text: str) -> str:
    """`text` as a YAML scalar: plain where that is safe."""
    if "\n" in text:
        raise ConfigError(f"{text!r}: one line is expected")
    return text if re.fullmatch(r"[\w./~][\w./:~ -]*[\w./]|\w", text) and ": " not in text else json.dumps(text, ensure_ascii=False)
