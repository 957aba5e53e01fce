"""What `lep-bench new` writes. @NAME@ is the adapter's or family's name, @FUNCTION@ a Python name
made of it.
"""

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

PROPAGATION = '''\
"""@NAME@: say here in one line what the method does."""

from lep_bench.plugin import Params, propagation


class Settings(Params):
    """Set in a family's YAML: `propagation: {@NAME@: {strength: 0.5}}`. Every field needs a default."""

    strength: float = 1.0


@propagation("@NAME@")
def @FUNCTION@(problem, params: Settings):
    """The donor's rows, moved by what instruction tuning did to the shared tokens on average.

    Source: cite the paper or page the method comes from. This example is after task arithmetic (arXiv 2212.04089).
    """
    # Called once for the input embedding and once for the head (problem.matrix says which). `overlap` pairs (new id,
    # old id) of the tokens in both vocabularies; base_at and instruct_at take old ids, donor_at takes new ones, and
    # all give float64 rows [n, d]. For a linear map: problem.fit(problem.mixed("base"), problem.mixed("instruct")).
    old_ids = problem.overlap[:, 1]
    move = (problem.instruct_at(old_ids) - problem.base_at(old_ids)).mean(dim=0)
    # The function gets blocks of donor rows [n, d] with their new ids [n], and gives back the new rows [n, d].
    return lambda donor_rows, ids: donor_rows + params.strength * move
'''

VOCABULARY = '''\
"""@NAME@: say here in one line what the vocabulary is like."""

from lep_bench.plugin import Params, vocabulary


class Settings(Params):
    """Set in a family's YAML: `vocabularies: {@NAME@: {params: {size: 8000}}}`. Every field needs a default."""

    size: int = 1000  # ordinary tokens, the 256 byte tokens included
    characters: int = 1_000_000_000  # text is read up to this many characters


@vocabulary("@NAME@")
def @FUNCTION@(base, texts, params: Settings):
    """A new BPE vocabulary, learned from lines that hold a Cyrillic letter.

    Source: cite the paper or page the method comes from. This example is nobody's.
    """
    # `base` is the base model's tokenizers.Tokenizer, `texts` an iterator over documents that can be read once. What is
    # given back is a tokenizers.Tokenizer with every special token of the base and ids without holes; new_bpe, extended
    # and optimized of lep_bench.surgery.vocabulary see to that, and any tokenizer is checked before it is used.
    from lep_bench.surgery import vocabulary as made

    russian = (text for text in texts if any("а" <= letter <= "я" for letter in text.lower()))
    return made.new_bpe(base, made.limited(russian, params.characters), params.size)
'''

TUNING = '''\
"""@NAME@: say here in one line how the model is tuned."""

from lep_bench.plugin import Params, tuning


class Settings(Params):
    """Set in a family's YAML: `tuning: {@NAME@: {after: [conversion], params: {copies: 100}}}`. Every field needs a default."""

    # A run lets the original instruct model write `answers` answers of at most `answer_tokens` tokens beforehand.
    answers: int = 32
    answer_tokens: int = 64
    copies: int = 32
    learning_rate: float = 1e-4


@tuning("@NAME@")
def @FUNCTION@(model, params: Settings):
    """A short tuning of all layers on the instruct model's own answers and on copying.

    Source: cite the paper or page the method comes from. This example is after arXiv 2412.21140, section 3.5.
    """
    # `model` gives examples (prompt, answer) and tunes: answers(n, max_tokens) are the ORIGINAL instruct model's, copies(n)
    # ask to repeat a text, examples(file) reads a JSONL of yours. Recipe holds every setting of the tuning.
    from lep_bench.training.finetune import Recipe

    examples = model.answers(params.answers, params.answer_tokens) + model.copies(params.copies)
    recipe = Recipe(layers="all", learning_rate=params.learning_rate, batch=16)
    return model.finetune(examples, recipe)
'''

TEST = '''\
"""@NAME@ keeps its contract on small models of every kind (pytest runs this)."""

from pathlib import Path

from lep_bench.testing import check_adapter


def test_@FUNCTION@() -> None:
    check_adapter(Path(__file__).with_name("@FILE@"))
'''

DONOR_FAMILY = """\
# A family: base, instruct, and the vocabularies that a donor exists for. Run it with the suite of the same name.
description: @DESCRIPTION@
base: @BASE@
instruct: @INSTRUCT@
# bytes-exact cuts new tokens into old ones exactly as bytes; paper does it as the paper's authors did.
row_policy: bytes-exact
vocabularies:
@VOCABULARIES@
propagation:
  swap: {}
  overlap: {}
  conversion: {}
"""

TRAINED_FAMILY = """\
# A family: base, instruct, and the vocabularies that are made and trained here. Run it with the suite of the same name.
description: @DESCRIPTION@
base: @BASE@
instruct: @INSTRUCT@
# Text (one document a line) or JSONL files with a "text" field, a name or a list of names: for tokenizers and training.
corpus: @CORPUS@
row_policy: bytes-exact
vocabularies:
  original: {} # the control: the same text, the old vocabulary
  bpe: {}
  extended: {}
# Embeddings and head only, the body stays frozen. `characters` of the corpus are read once, by every vocabulary alike.
pretraining: {characters: 100000000, block: 1024, batch: 256, learning_rate: 2.0e-4}
propagation:
  swap: {}
  overlap: {}
  conversion: {}
"""

SUITE = """\
# What `lep-bench run --suite @NAME@` means: these families, tasks and scoring rules.
title: @NAME@
families: [@NAME@]
@REST@"""


TASK = """\
# A plain lm-eval task: `lm_eval run --include_path DIR --tasks @NAME@` runs it too.
task: @NAME@
custom_dataset: !function utils.load_rows
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - metric: acc
metadata:
  # Raise it whenever a score may change.
  version: 1.0
  # The metric that a table shows.
  primary: acc
"""

TASK_UTILS = '''\
"""The rows of this task. lm-eval loads this file by path; it imports nothing of lep-bench."""

import json
from pathlib import Path

import datasets


def load_rows(**_):
    """One row a line in rows.jsonl: question, choices, gold (the right choice's number), group (for standard errors)."""
    lines = (Path(__file__).parent / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}
'''

TASK_ROWS = """\
{"question": "Which of these is a colour?", "choices": ["green", "seven", "river"], "gold": 0, "group": "colours"}
{"question": "Which of these is a number?", "choices": ["green", "seven", "river"], "gold": 1, "group": "numbers"}
"""


def fill(template: str, **values: str) -> str:
    """`template` with every @KEY@ replaced by `values[key]`."""
    for key, value in values.items():
        template = template.replace(f"@{key.upper()}@", value)
    return template


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Letters, digits, . _ and -; models are called by it.",
        show_default=False,
    ),
]


@app.command()
def adapter(
    name: Name,
    kind: Annotated[
        Literal["propagation", "vocabulary", "tuning"],
        typer.Option("--kind", help="Which step it provides."),
    ] = "propagation",
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to.")] = Path(
        "my-adapters"
    ),
) -> None:
    """Write a new adapter: one working file, and its test.

    \b
    Examples:
      lep-bench new adapter my-method
      lep-bench models '*/my-method' --adapters my-adapters
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
    function = identifier(name)
    file, test = to / f"{function}.py", to / f"test_{function}.py"
    refuse_existing(file, test)
    template = {"propagation": PROPAGATION, "vocabulary": VOCABULARY, "tuning": TUNING}[kind]
    write_text(file, fill(template, name=name, function=function))
    write_text(test, fill(TEST, name=name, function=function, file=file.name))
    plugin.load_adapters(file)
    typer.echo(f"written: {file}\nwritten: {test}\nits test: python -m pytest {test}")
    if kind == "propagation":
        typer.echo(f"its models: lep-bench models '*/{name}' --adapters {to}")
    elif kind == "tuning":
        typer.echo(f"its models: lep-bench models '*+{name}' --adapters {to}")
    else:
        typer.echo(
            f"to use it: add `{name}: {{}}` under `vocabularies` of a family (lep-bench new "
            f"family), and give --adapters {to}"
        )


@app.command()
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
            help="A donor that exists (repeatable).",
            show_default=False,
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus",
            metavar="FILE",
            help="Text to make vocabularies and donors from.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="The config folder to write to.")
    ] = Path("my-configs"),
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
        vocabulary: placed(location) for vocabulary, location in map(split_donor, donor or ())
    }
    base, instruct, corpus = placed(base), placed(instruct), corpus and placed(corpus)
    check_models(base, instruct, donors)
    if donors:
        rows = "\n".join(
            f"  {vocabulary}: {{donor: {quoted(location)}}}"
            for vocabulary, location in donors.items()
        )
        text = fill(DONOR_FAMILY, vocabularies=rows)
    elif corpus is not None:
        text = fill(TRAINED_FAMILY, corpus=quoted(corpus))
    else:
        raise LepBenchError(
            "a family needs donors: --donor VOCABULARY=PATH_OR_HUB_ID for one that exists, or "
            "--corpus FILE to make them from a text"
        )
    text = fill(
        text,
        description=quoted(f"{instruct} with new vocabularies"),
        base=quoted(base),
        instruct=quoted(instruct),
    )
    rest = folders.file("suites", "mini").read_text(encoding="utf-8")
    # the tasks and rules of the mini suite, under another title
    rest = rest[rest.index("tasks:") :]
    try:
        write_text(files[0], text)
        write_text(files[1], fill(SUITE, name=name, rest=rest))
        made = Configs.of((to, *(configs or ())))
        listed = select_models(
            ["all"], made.suite(name), made, plugin.discover_adapters(tuple(adapters or ()))
        )
    except LepBenchError:
        for file in files:
            file.unlink(missing_ok=True)
        raise
    typer.echo(
        f"written: {files[0]}\nwritten: {files[1]}\n{len(listed)} models: lep-bench models "
        f"--suite {name} --configs {to}"
    )
    typer.echo(f"to run: lep-bench run --suite {name} --configs {to} --models all --dry-run")


@app.command()
def task(
    name: Name,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to.")] = Path(
        "my-tasks"
    ),
) -> None:
    """Write a new lm-eval task: its YAML, its rows and the code that reads them.

    \b
    Examples:
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
    contents = {
        f"{name}.yaml": fill(TASK, name=name),
        "utils.py": TASK_UTILS,
        "rows.jsonl": TASK_ROWS,
    }
    refuse_existing(*(folder / file for file in contents))
    for file, text in contents.items():
        write_text(folder / file, text)
        typer.echo(f"written: {folder / file}")
    tasks.scan_tasks((to,))
    typer.echo(
        f"to run it: lep-bench run --tasks {name} --tasks-dir {to} --models 'mini-llama/instruct'"
    )


def check_name(name: str, what: str) -> None:
    """Raise LepBenchError unless `name` can stand in a model's name and in a file's."""
    from lep_bench import files

    files.check_name(name, f"{what} name")
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


def placed(location: str) -> str:
    """`location` with the whole path of what is here: in a YAML a path is relative to the YAML, on
    the command line to where one is.
    """
    path = Path(location).expanduser()
    return str(path.resolve()) if location and path.exists() else location


def check_models(base: str, instruct: str, donors: dict[str, str]) -> None:
    """Raise CheckpointError for local folders that are no checkpoints or whose shapes differ. Hub
    ids are not looked up.
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


def quoted(text: str) -> str:
    """`text` as a YAML scalar: plain where that is safe."""
    if "\n" in text:
        raise ConfigError(f"{text!r}: one line is expected")
    return (
        text
        if re.fullmatch(r"[\w./~][\w./:~ -]*[\w./]|\w", text) and ": " not in text
        else json.dumps(text, ensure_ascii=False)
    )
