"""Write docs/guide/reference/*.md from the code: commands, YAML keys, adapters, results, the Python
API and errors.

    python docs/reference.py           write the pages
    python docs/reference.py --check   exit 1 when a page is not what the code says
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

FOLDER = Path(__file__).parent / "guide" / "reference"
sys.path.insert(0, str(Path(__file__).parent.parent))  # of this checkout, whatever is installed
NOTE = "<!-- Generated: run `python docs/reference.py`. Do not edit. -->"


def escape(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def render_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty when it has no rows."""
    lines = ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows]
    rule = "| " + " | ".join("---" for _ in heads) + " |"
    return "\n".join(["| " + " | ".join(heads) + " |", rule, *lines]) + "\n" if lines else ""


def render_commands() -> str:
    """Every command of the command line with its arguments and options."""
    import typer

    from lep_bench.cli import app
    from lep_bench.cli.app import SECTIONS

    root = typer.main.get_command(app)
    parts = [
        "# Commands\n",
        "`lep-bench COMMAND -h` prints the same text. Options in `lep-bench.yaml` need not be "
        "repeated: see [Configuration](configs.md).\n",
        "## Options of every command\n\n" + _render_parameters(root, "lep-bench"),
    ]
    for title, names in SECTIONS.items():
        parts.append(f"## {title}\n")
        for name in names:
            parts += _render_command(root.commands[name], f"lep-bench {name}")
    return "\n".join(parts)


def _render_command(command: Any, name: str) -> Iterator[str]:
    summary, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
    yield f"### {name}\n\n{' '.join(summary.split())}\n"
    if hasattr(command, "commands"):
        for part, inner in command.commands.items():
            if not inner.hidden:
                yield from _render_command(inner, f"{name} {part}")
        return
    # "\b" marks examples, which keep their lines
    for paragraph in re.split(r"\n\s*\n", rest.strip()):
        text = paragraph.strip("\b\n ")
        if text.startswith("lep-bench"):
            yield f"```text\n{text}\n```\n"
        elif text.startswith("Example"):
            examples = inspect.cleandoc("\n".join(text.splitlines()[1:]))
            yield f"```text\n{examples}\n```\n"
        elif text:
            yield " ".join(text.split()) + "\n"
    yield _render_parameters(command, name)


def _render_parameters(command: Any, name: str) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    rows = []
    for parameter in command.get_params(context):
        spelling, text = parameter.get_help_record(context) or ("", "")
        if not spelling or "--help" in spelling:
            continue
        text, _, extra = text.partition("  [")
        notes, default = [], ""
        for note in filter(None, extra.rstrip("]").split("; ")):
            if note == "required" or note.startswith("default: "):
                default = note.removeprefix("default: ")
            else:
                notes.append(note)
        rows.append((f"`{spelling}`", " ".join([text, *(f"({n})" for n in notes)]), default))
    return render_table(("argument or option", "meaning", "default"), rows)


def render_configs() -> str:
    """Every key of every YAML file."""
    from lep_bench.config import schema

    intro = (
        "A family, a suite, a baseline or a hardware is one YAML file of that name. lep-bench "
        "ships some (`lep-bench list paths configs` prints where), and `--configs DIR` adds "
        "yours: `DIR/families/NAME.yaml`, `DIR/suites/NAME.yaml` and so on. A file of yours "
        "replaces the shipped one of the same name. A wrong key or value is reported as "
        "`file:line: field: reason`.\n"
    )
    sections = [
        ("lep-bench.yaml", schema.Project, ()),
        ("Families", schema.Family, (schema.Vocabulary, schema.Pretraining, schema.Tuning)),
        ("Suites", schema.Suite, (schema.Conversation, schema.Mean)),
        ("Baselines", schema.Baseline, ()),
        ("Hardware", schema.Devices, ()),
    ]
    parts = ["# Configuration\n", intro]
    for title, model, inner in sections:
        parts.append(f"## {title}\n\n{_join_lines(model.__doc__)}\n\n{_render_keys(model)}")
        for part in inner:
            users = [
                f"`{name}`"
                for name, field in model.model_fields.items()
                if part.__name__ in _name_type(field.annotation).split()
            ]
            parts.append(
                f"### {part.__name__}\n\nThe value of {' and '.join(users)}. "
                f"{_join_lines(part.__doc__)}\n\n{_render_keys(part)}"
            )
    return "\n".join(parts)


def _join_lines(text: str | None) -> str:
    return "\n\n".join(" ".join(p.split()) for p in inspect.cleandoc(text or "").split("\n\n"))


def _render_keys(model: Any) -> str:
    rows = []
    for name, field in model.model_fields.items():
        if name == "name":  # the file's own name
            continue
        default = "required" if field.is_required() else _render_default(field.default)
        meaning = (field.description or "").strip()
        rows.append((f"`{name}`", _name_type(field.annotation), default, meaning))
    return render_table(("key", "type", "default", "meaning"), rows)


def _render_default(value: Any) -> str:
    if value in (None, "", (), {}):
        return ""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def _name_type(annotation: Any) -> str:
    """A type as somebody who writes YAML says it. `None` is left out: the key may be omitted."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name_type(arguments[0])
    if origin is Literal:
        return " or ".join(arguments)
    if origin in (Union, UnionType):
        return " or ".join(_name_type(a) for a in arguments if a is not type(None))
    if origin is tuple:
        return f"list of {_name_type(arguments[0])}"
    if origin is dict:
        return f"{_name_type(arguments[0])} -> {_name_type(arguments[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", "value").replace("Any", "value"))


def render_adapters() -> str:
    """Every shipped adapter with its parameters."""
    from lep_bench.plugin import discover_adapters

    registry = discover_adapters(())
    parts = [
        "# Adapters\n",
        "The methods that lep-bench ships. Parameters stand in a family's YAML. `all` runs the "
        "methods that the family lists. `lep-bench list adapters` also shows installed packages "
        "and your own files.\n",
    ]
    for kind in ("vocabulary", "propagation", "tuning"):
        parts.append(f"## {kind.capitalize()}\n")
        for name in registry.names(kind):
            entry = registry.get(kind, name)
            if not entry.shipped:
                continue
            parameters = entry.adapter.params
            rows = [
                (
                    f"`{key}`",
                    _name_type(field.annotation),
                    _render_default(field.default),
                    field.description or "",
                )
                for key, field in parameters.model_fields.items()
            ]
            parts.append(
                f"### {name}\n\n{_join_lines(entry.adapter.doc)}\n\n"
                + render_table(("parameter", "type", "default", "meaning"), rows)
            )
    return "\n".join(parts)


def render_results() -> str:
    """The columns of the frames."""
    from lep_bench.records import frame

    parts = [
        "# Results\n",
        "The frames of `lep_bench.results` and `lep_bench.samples` are pandas DataFrames. Later "
        "versions add columns and never rename one.\n",
    ]
    shared, _, rest = inspect.getsource(frame).partition("\nRESULTS = ")
    results, _, samples = rest.partition("\nSAMPLES = ")
    for title, columns, source in (
        ("Results", frame.RESULTS, shared + results),
        ("Samples", frame.SAMPLES, shared + samples),
    ):
        comments = dict(re.findall(r'^    "(\w+)": \w+,  # (.+)$', source, re.MULTILINE))
        rows = [
            (f"`{name}`", dtype, _capitalize(comments.get(name, "")))
            for name, dtype in columns.items()
        ]
        parts.append(
            f"## {title}\n\n`lep_bench.{title.lower()}(...)`.\n\n"
            + render_table(("column", "dtype", "meaning"), rows)
        )
    return "\n".join(parts)


def _capitalize(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def render_api() -> str:
    """Every public name of `lep_bench` with its signature and docstring."""
    import lep_bench

    parts = ["# Python API\n", "Everything below is imported with `import lep_bench`.\n"]
    for name in getattr(lep_bench, "__all__", ["adapt"]):
        value = getattr(lep_bench, name)
        if not callable(value):
            continue
        # annotations are strings, and shown in quotes
        signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(value)))
        if len(signature) > 70:
            inner, _, returned = signature[1:].rpartition(") -> ")
            inner = re.sub(r", (?=\*|\w+:)", ",\n    ", inner)
            signature = f"(\n    {inner},\n) -> {returned}"
        kind = "class" if inspect.isclass(value) else "def"
        parts.append(f"## {name}\n\n```text\n{kind} {name}{signature}\n```\n")
        parts.append((inspect.getdoc(value) or "") + "\n")
    return "\n".join(parts)


EXIT_CODES = (
    ("0", "Done."),
    (
        "1",
        "Done, but something failed: some cells of a run, a checkpoint that `check` looked at, a "
        "model that `gate` compared, a page that `leaderboard --check` read.",
    ),
    ("2", "Refused, and nothing was done. One or two lines say what is wrong and what to do."),
    (
        "70",
        "A bug in lep-bench. One line names the log file with the traceback; `--debug` prints it.",
    ),
    ("130, 143", "Interrupted. Run the same command again to go on."),
)


def render_errors() -> str:
    """Exit codes and error classes."""
    from lep_bench import errors

    classes = [
        (f"`{name}`", _join_lines(value.__doc__))
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.LepBenchError)
    ]
    return "\n".join(
        [
            "# Errors and exit codes\n",
            "## Exit codes\n\n" + render_table(("code", "meaning"), EXIT_CODES),
            "One failing model or task is a failed cell. It never ends a run: the table shows a "
            "dash, and the reason stands below it.\n",
            "## Exceptions\n\nThe Python API raises these; all are in `lep_bench.errors`.\n\n"
            + render_table(("class", "meaning"), classes),
        ]
    )


PAGES = {
    "commands.md": render_commands,
    "configs.md": render_configs,
    "adapters.md": render_adapters,
    "results.md": render_results,
    "api.md": render_api,
    "errors.md": render_errors,
}


def render_pages() -> dict[str, str]:
    """File name -> text of every page."""
    pages = {}
    for name, render in PAGES.items():
        title, _, body = render().partition("\n")
        pages[name] = f"{title}\n\n{NOTE}\n{body.rstrip()}\n"
    return pages


def find_stale() -> list[str]:
    """The pages on disk that are not what the code says, and pages that nobody writes any more."""
    pages = render_pages()
    existing = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.md")}
    return sorted(
        name for name in pages.keys() | existing.keys() if pages.get(name) != existing.get(name)
    )


def main() -> None:
    """Write the pages, or check them."""
    if "--check" in sys.argv:
        stale = find_stale()
        if stale:
            sys.exit(f"stale: {', '.join(stale)}: run python docs/reference.py")
        return
    FOLDER.mkdir(exist_ok=True)
    pages = render_pages()
    for file in FOLDER.glob("*.md"):
        if file.name not in pages:
            file.unlink()
    for name, text in pages.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
