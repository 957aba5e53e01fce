"""`lep-bench prompts`: show what a model reads, and check it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lep_bench.cli.app import (
    WIDE,
    AdapterFolders,
    ConfigFolders,
    DataFolder,
    Offline,
    Out,
    TaskFolders,
    app,
)
from lep_bench.errors import LepBenchError, count_noun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.text import Text

    from lep_bench.config.load import Configs
    from lep_bench.config.models import ModelSpec
    from lep_bench.config.schema import Suite
    from lep_bench.evaluate.prompts import CompiledTask, Item, Prompt


SPECIAL, FAINT, ROLE = "bold magenta", "dim", "bold cyan"
_SIGNS = {" ": "·", "\n": "↵", "\t": "→", "\r": "␍"}


def show_prompts(
    compiled: CompiledTask, title: str, listed: str, rows: int, ids: bool, notes: Sequence[str] = ()
) -> None:
    """Print the first `rows` rows, below `notes`. `listed` is the listed conversation format, if
    one is used.
    """
    from rich.console import Console
    from rich.text import Text

    # Piped, nothing is folded.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    encoder = compiled.encoder
    form = (
        "the model's own chat template"
        if compiled.by_template
        else f"the listed format {listed}"
        if listed
        else "plain text"
    )
    bos = (
        "no BOS"
        if encoder.bos is None
        else f"BOS {encoder.spell([encoder.bos])[0]} ({encoder.bos})"
    )
    positions = f", {compiled.positions:,} positions" if compiled.positions else ""
    console.print(Text(title, "bold"), soft_wrap=True)
    for line in (
        (
            f"asked in {form if _is_conversation(compiled) else 'no form: running text'}, "
            f"{count_noun(compiled.shots, 'shot')}; {bos}{positions}"
        ),
        *(notes if _is_conversation(compiled) else ()),
        f"tokenizer: {encoder.folder}",
        *encoder.notes,
        *compiled.notes,
    ):
        console.print(line, markup=False, soft_wrap=True)
    names = sorted(encoder.tokenizer.get_added_vocab(), key=len, reverse=True)
    special = "|".join(map(re.escape, names))
    for item in compiled.items[:rows]:
        for number, prompt in enumerate(item.prompts, 1):
            _print_prompt(
                console,
                compiled,
                item,
                prompt,
                f"prompt {number} of {len(item.prompts)}" if len(item.prompts) > 1 else "",
                special,
                ids,
            )


def finish_prompts(compiled: CompiledTask, count: int) -> None:
    """Print the verdict in one line."""
    from rich.console import Console
    from rich.text import Text

    encoder, console = compiled.encoder, Console(highlight=False)
    rows = (
        f"{count_noun(sum(len(item.prompts) for item in compiled.items), 'prompt')} of "
        f"{count_noun(len(compiled.items), 'row')}"
    )
    if count:
        console.print(Text(f"{rows}: {count_noun(count, 'fault')}, listed above", "bold red"))
        return
    proven = (
        ["BOS once"]
        if encoder.adds_bos or (compiled.by_template and encoder.bos is not None)
        else []
    )
    proven += (
        ["every message in its place"]
        if any(prompt.messages for item in compiled.items for prompt in item.prompts)
        else []
    )
    proven += (
        ["ids as the model's own chat template gives them"]
        if compiled.by_template and _is_conversation(compiled)
        else []
    )
    opened = any(prompt.generation_prompt for item in compiled.items for prompt in item.prompts)
    proven += (
        ["the model's turn opened"]
        if compiled.by_template and opened and _is_conversation(compiled)
        else []
    )
    wanted, there = (
        sum(counts)
        for counts in zip(*((item.asked_shots, item.shots) for item in compiled.items), strict=True)
    )
    if wanted:
        proven.append(
            "all shots there"
            if there == wanted
            else f"{wanted - there} of {wanted} shots left out by the rules, for every model alike"
        )
    proven += ["none too long"] if compiled.positions else []
    console.print(Text(f"{rows} proven: {', '.join(proven)}", "bold green"), soft_wrap=True)


def _is_conversation(compiled: CompiledTask) -> bool:
    return any(request.request_type != "loglikelihood_rolling" for request in compiled.requests)


def _print_prompt(
    console: Console,
    compiled: CompiledTask,
    item: Item,
    prompt: Prompt,
    which: str,
    special: str,
    ids: bool,
) -> None:
    from rich.text import Text

    context = compiled.ids[prompt.requests[0]][0]
    shots = f"{item.shots} of {count_noun(item.asked_shots, 'shot')}" if item.asked_shots else ""
    facts = [
        f"row {item.doc_id}",
        which,
        count_noun(len(context), "token"),
        shots,
        "cut on the left" if item.cut else "",
    ]
    facts.append(f"prompt_ids {item.prompt_ids}")  # as in samples: of all prompts of the row
    console.print()
    console.print(
        Text("── " + " · ".join([*filter(None, facts), f"gold {_shorten(item.gold)}"]), "bold"),
        soft_wrap=True,
    )
    if prompt.messages is not None:
        _print_section(console, "roles", "what the task asks")
        width = max(len(message["role"]) for message in prompt.messages)
        for message in prompt.messages:
            lines = message["content"].splitlines() or [""]
            _print_indented(
                console,
                Text.assemble(
                    (message["role"].ljust(width), ROLE),
                    "  ",
                    ("\n" + " " * (width + 2)).join(lines),
                ),
            )
    _print_section(
        console,
        "rendered",
        "what the model's chat template passes to the tokenizer"
        if prompt.messages and compiled.by_template
        else "",
    )
    request = compiled.requests[prompt.requests[0]]
    _print_indented(
        console,
        _mark_visible(
            prompt.text if request.request_type != "loglikelihood_rolling" else request.args[0],
            special,
        ),
    )
    if ids:
        _print_section(console, "ids", "what the engine reads")
        _print_indented(console, _format_pieces(compiled, context))
    _print_section(console, "asked for", "")
    for i in prompt.requests:
        _print_indented(console, _format_request(compiled, i, ids))


def _print_section(console: Console, name: str, what: str) -> None:
    from rich.text import Text

    console.print(Text.assemble((name, "bold"), (f"  {what}" if what else "", FAINT)))


def _print_indented(console: Console, text: Text) -> None:
    from rich.text import Text

    for line in text.wrap(console, console.width - 2):
        console.print(Text.assemble("  ", line), soft_wrap=True)


def _format_request(compiled: CompiledTask, number: int, ids: bool) -> Text:
    # heavy: listing commands import this package too
    from rich.text import Text

    from lep_bench.evaluate.prompts import read_generation

    request, continuation = compiled.requests[number], compiled.ids[number][1]
    if request.request_type == "generate_until":
        wanted = read_generation(request)
        ends = (
            f", until {' or '.join(json.dumps(text, ensure_ascii=False) for text in wanted.until)}"
            if wanted.until
            else ""
        )
        drawn = wanted.sampling
        how = (
            (
                f"sampled: temperature {drawn.temperature:g}, top_k {drawn.top_k}, top_p "
                f"{drawn.top_p:g}"
            )
            if drawn
            else "greedy"
        )
        return Text(f"an answer of at most {count_noun(wanted.new, 'token')}{ends}; {how}")
    if request.request_type == "loglikelihood_rolling":
        return Text(f"the log-probability of the text, {count_noun(len(continuation), 'token')}")
    text = Text(
        f"the log-probability of {_shorten(request.args[1])}, "
        f"{count_noun(len(continuation), 'token')}"
    )
    return Text.assemble(text, ":  ", _format_pieces(compiled, continuation)) if ids else text


def _format_pieces(compiled: CompiledTask, ids: tuple[int, ...]) -> Text:
    """`id piece` pairs. White space in a piece is a visible sign, so that every piece keeps its
    place.
    """
    from rich.text import Text

    text = Text()
    for number, piece in zip(ids, compiled.encoder.spell(ids), strict=True):
        own = number in compiled.encoder.special_ids
        shown = piece if own else "".join(_SIGNS.get(character, character) for character in piece)
        text.append("  " if len(text) else "")
        text.append(f"{number}", FAINT)
        text.append("›", FAINT)  # no space: id and piece are not parted at a line's end
        text.append(shown, SPECIAL if own else "")
    return text


def _mark_visible(text: str, special: str) -> Text:
    """Rendered text with special tokens in colour, and signs for line ends and trailing spaces."""
    from rich.text import Text

    shown = Text(re.sub(r" (?=\n|$)", "·", text).replace("\n", "↵\n"))
    if special:
        shown.highlight_regex(special, SPECIAL)
    shown.highlight_regex(r"↵(?=\n)", FAINT)
    return shown


def _shorten(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:59] + "…", ensure_ascii=False)


MOST = 20  # faults printed, one line each


@app.command()
def prompts(
    model: Annotated[
        str,
        typer.Argument(
            help="A model's name, a checkpoint or tokenizer folder, builtin:FAMILY/base, or a Hub "
            "id."
        ),
    ],
    task: Annotated[str, typer.Argument(help="A task (see lep-bench list tasks).")],
    rows: Annotated[
        int,
        typer.Option("-n", "--rows", min=0, help="How many rows to show; all of them are checked."),
    ] = 3,
    ids: Annotated[
        bool,
        typer.Option("--ids", help="Also show every token: its id and its text."),
    ] = False,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="Build prompts as this suite does; default: the first that has the task.",
            show_default=False,
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--shots", min=0, help="Use this many shots instead of the suite's.", show_default=False
        ),
    ] = None,
    data: DataFolder = None,
    offline: Offline = False,
    out: Out = Path("runs"),
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
) -> None:
    """Show what a model really reads, and check it.

    Prints the roles, the rendered text and the tokens of a task's prompts, built exactly as in a
    run. No weights are loaded.

    Exit code 1, with a line for each row, where BOS is missing or doubled, rendering drops or
    repeats a message, the model's turn is not opened, the prompt does not fit the model, or the ids
    differ from those that the model's own chat template gives; under protocol paper also where a
    shot did not fit or the prompt was cut (a run counts these and goes on). A run makes the same
    checks before it asks anything.

    \b
    lep-bench prompts mini-llama/instruct mini_facts_ru
    lep-bench prompts ./my-checkpoint darumeru_rcb --suite darumeru -n 1 --ids
    """
    from lep_bench import bundle, plugin, tasks
    from lep_bench.config.load import Configs

    bundle.use_data_folder(
        data, offline
    )  # before anything is imported that reads the environment once
    if data is not None:
        bundle.verify(data)
    known = Configs.of(configs or ())
    chosen = known.suite(suite or _find_suite(task, known))
    folders = (*(tasks_dir or ()), *tasks.lm_eval_folders(chosen.lm_eval))
    file = tasks.scan_tasks(folders).get(task)
    if suite is not None and task not in chosen.tasks:
        raise LepBenchError(f"suite {suite} has no task {task}; it has {', '.join(chosen.tasks)}")
    methods = plugin.discover_adapters(adapters or ())
    from lep_bench.pipeline.board import find_tokenizer

    spec, folder = find_tokenizer(model, file, chosen, known, methods, out)
    from lep_bench.evaluate import proof
    from lep_bench.evaluate.lmeval import compile_tasks
    from lep_bench.pipeline.plan import PAPER, choose_scoring

    conversation, scoring = choose_scoring(
        chosen, spec, known.family(spec.family) if spec.family else None
    )
    conversation = (
        conversation if shots is None else conversation.model_copy(update={"shots": shots})
    )
    (compiled,) = compile_tasks(
        [task],
        folder,
        conversation,
        task_folders=folders,
        metadata=scoring.passed_on(),
        prove=False,
    )
    notes = (
        []
        if compiled.encoder.has_template
        else _explain_missing_template(spec, chosen, listed=hasattr(compiled.task, "asked"))
    )
    title = f"{spec.name}, {task}, as suite {chosen.name} asks (protocol {chosen.protocol})"
    show_prompts(compiled, title, scoring.conversation, rows, ids, notes)
    # Strict chooses shots by characters, the same for every model: no fault of this one.
    faults = [
        *proof.find_faults(compiled),
        *(proof.find_shortened(compiled) if chosen.protocol == PAPER else ()),
    ]
    for line in [*faults[:MOST], f"... and {len(faults) - MOST:,} more"][: len(faults)]:
        typer.echo(line, err=True)
    finish_prompts(compiled, len(faults))
    if faults:
        raise typer.Exit(1)


def _find_suite(task: str, known: Configs) -> str:
    """The first suite that has the task; mini for one that no suite has."""
    return next((name for name in known.names("suites") if task in known.suite(name).tasks), "mini")


def _explain_missing_template(spec: ModelSpec, suite: Suite, listed: bool) -> list[str]:
    """Which format a tokenizer without a chat template gets, why, and how to choose another.

    `listed`: whether the task knows listed formats.
    """
    from lep_bench.evaluate.encode import LISTED_FORMATS
    from lep_bench.pipeline.plan import PAPER

    if spec.family is not None and not spec.is_instruct:
        return [
            (
                f"this tokenizer has no chat template and needs none: suite {suite.name} asks "
                f"{spec.stage} models without"
            )
        ]
    why = (
        f"as configs say (conversation: {spec.conversation})"
        if spec.conversation
        else f"as suite {suite.name} asks models without one"
    )
    choice = "write the model's own chat_template into tokenizer_config.json"
    if listed:
        where = (
            "configs/baselines/NAME.yaml"
            if spec.family is None
            else f"configs/families/{spec.family}.yaml"
        )
        under = "" if suite.protocol == PAPER else "ask under protocol paper with "
        choice += f", or {under}`conversation: FORMAT` in {where}, FORMAT one of {LISTED_FORMATS}"
    return [f"this tokenizer has no chat template: asked so {why}. To choose: {choice}"]
