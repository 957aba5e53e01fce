"""lep-bench.yaml: options that need not be repeated on every command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from lep_bench.errors import ConfigError

FILE = "lep-bench.yaml"
# The keys of the file and the options that they are defaults of.
OPTIONS = {
    "suite": "--suite",
    "out": "--out",
    "configs": "--configs",
    "adapters": "--adapters",
    "tasks": "--tasks-dir",
    "data": "--data",
}
# Without --suite, reproduce means the paper's suite, and doctor looks at no suite.
WITHOUT_SUITE = ("reproduce", "doctor")


def apply_project(context: typer.Context, place: Path | None) -> None:
    """Make the project file's values the defaults of all commands: flags still win.

    `place` is a file or a folder; None: the working folder, which need not have one. Raises
    ConfigError (file:line) for a wrong key or value.
    """
    file = (place or Path()) / FILE if place is None or place.is_dir() else place
    if not file.is_file():
        if place is None:
            return
        raise ConfigError(f"--project {place}: there is no {FILE} here")
    values = read_defaults(file)
    context.obj = file
    context.default_map = map_defaults(context.command, values)
    for name in WITHOUT_SUITE:
        context.default_map[name].pop("suite", None)


def read_defaults(file: Path) -> dict[str, Any]:
    """Read a project file: option -> value. Paths become relative to the working folder.

    Raises ConfigError (file:line) for a wrong key or value.
    """
    from lep_bench.config.schema import Project
    from lep_bench.yamlfile import read_yaml

    project = read_yaml(file, Project)

    def locate(value: Any) -> Any:
        if isinstance(value, tuple):
            return [locate(part) for part in value]
        return str(file.parent / value.expanduser()) if isinstance(value, Path) else value

    return {
        option: locate(value)
        for key, option in OPTIONS.items()
        if (value := getattr(project, key)) not in (None, ())
    }


def map_defaults(group: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """click's `default_map` for a group: command -> parameter -> value.

    Parameters are found by their option: an argument may have the same name and another meaning.
    """
    return {
        name: map_defaults(command, values)
        if hasattr(command, "commands")
        else {
            parameter.name: values[option]
            for parameter in command.params
            for option in parameter.opts
            if option in values
        }
        for name, command in group.commands.items()
    }


def show_project(context: typer.Context) -> None:
    """Print which options of this command the project file gave, if any."""
    options = {p.name: p.opts[0] for p in context.command.params}
    words = []
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "DEFAULT_MAP":
            parts = value if isinstance(value, list | tuple) else [value]
            words += [f"{options[name]} {part}" for part in parts]
    if words:
        typer.echo(f"project: {context.find_root().obj}: {' '.join(words)}")
