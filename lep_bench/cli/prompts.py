"""What a model is really asked: prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lep_bench.cli.app import AdapterFolders, ConfigFolders, DataFolder, Offline, Out, TaskFolders, app
from lep_bench.errors import LepBenchError

if TYPE_CHECKING:
    from lep_bench.config import Configs, ModelSpec, Suite
    from lep_bench.registry import Registry
    from lep_bench.taskfiles import TaskFile

MOST = 20  # faults printed, one line each


@app.command()
def prompts(
    model: Annotated[str, typer.Argument(help="A model's name, a checkpoint or tokenizer folder, builtin:FAMILY/base, or a Hub id.")],
    task: Annotated[str, typer.Argument(help="A task (lep-bench tasks lists them).")],
    rows: Annotated[int, typer.Option("-n", "--rows", min=0, help="How many rows to show; all of them are checked.")] = 3,
    ids: Annotated[bool, typer.Option("--ids", help="Also show every token: its id and the text it stands for.")] = False,
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="NAME", help="Ask as this suite does; default: the first that has the task.", show_default=False)
    ] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=0, help="Another number of shots than the suite's.", show_default=False)] = None,
    data: DataFolder = None,
    offline: Offline = False,
    out: Out = Path("runs"),
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
) -> None:
    """Show what a model really reads, and prove it.

    Roles, rendered text and tokens of a task's prompts, made exactly as a run makes them; no weights are loaded. Ends with
    1 and a line for each row where BOS is missing or doubled, a message was dropped or repeated in rendering, the model's
    turn is not opened, the prompt does not fit the model, or the ids differ from those that the model's own chat template
    gives; under protocol paper also where a shot did not fit or the prompt was cut (a run counts these and goes on). A run
    makes the same checks before it asks anything.

    \b
    lep-bench prompts mini-llama/instruct mini_facts_ru
    lep-bench prompts ./my-checkpoint darumeru_rcb --suite darumeru -n 1 --ids
    """
    from lep_bench import bundle, registry, taskfiles
    from lep_bench.config import Configs

    bundle.use(data, offline)  # before anything is imported that reads the environment once
    if data is not None:
        bundle.verify(data)
    known = Configs.of(configs or ())
    chosen = known.suite(suite or _suite_with(task, known))
    folders = (*(tasks_dir or ()), *taskfiles.lm_eval_folders(chosen.lm_eval))
    file = taskfiles.scan(folders).get(task)
    if suite is not None and task not in chosen.tasks:
        raise LepBenchError(f"suite {suite} has no task {task}; it has {', '.join(chosen.tasks)}")
    methods = registry.discover(adapters or ())
    spec, folder = found(model, file, chosen, known, methods, out)

    from lep_bench.cli import prompting
    from lep_bench.evaluate import compile_tasks, proof
    from lep_bench.plan import PAPER, asking

    conversation, scoring = asking(chosen, spec, known.family(spec.family) if spec.family else None)
    conversation = conversation if shots is None else conversation.model_copy(update={"shots": shots})
    (compiled,) = compile_tasks([task], folder, conversation, task_folders=folders, metadata=scoring.passed_on(), prove=False)
    notes = [] if compiled.encoder.has_template else _no_template(spec, chosen, listed=hasattr(compiled.task, "asked"))
    title = f"{spec.name}, {task}, as suite {chosen.name} asks (protocol {chosen.protocol})"
    prompting.show(compiled, title, scoring.conversation, rows, ids, notes)
    # Strict chooses shots by characters, the same for every model: no fault of this one.
    wrong = [*proof.faults(compiled), *(proof.shortened(compiled) if chosen.protocol == PAPER else ())]
    for line in [*wrong[:MOST], f"... and {len(wrong) - MOST:,} more"][: len(wrong)]:
        typer.echo(line, err=True)
    prompting.finish(compiled, len(wrong))
    if wrong:
        raise typer.Exit(1)


def _suite_with(task: str, known: Configs) -> str:
    """The first suite that has the task; mini for one that no suite has."""
    return next((name for name in known.names("suites") if task in known.suite(name).tasks), "mini")


def _no_template(spec: ModelSpec, suite: Suite, listed: bool) -> list[str]:
    """What a tokenizer without a chat template is asked in, why, and what else could be chosen. `listed`: whether the task knows listed formats."""
    from lep_bench.evaluate.encoding import LISTED
    from lep_bench.plan import PAPER

    if spec.family is not None and not spec.is_instruct:
        return [f"this tokenizer has no chat template and needs none: suite {suite.name} asks {spec.stage} models without"]
    why = f"as configs say (conversation: {spec.conversation})" if spec.conversation else f"as suite {suite.name} asks models without one"
    choice = "write the model's own chat_template into tokenizer_config.json"
    if listed:
        where = "configs/baselines/NAME.yaml" if spec.family is None else f"configs/families/{spec.family}.yaml"
        under = "" if suite.protocol == PAPER else "ask under protocol paper with "
        choice += f", or {under}`conversation: FORMAT` in {where}, FORMAT one of {LISTED}"
    return [f"this tokenizer has no chat template: asked so {why}. To choose: {choice}"]


def found(model: str, file: TaskFile, suite: Suite, known: Configs, methods: Registry, out: Path) -> tuple[ModelSpec, Path]:
    """The model and the folder of its tokenizer. Raises LepBenchError for one that is not there or has to be built first."""
    from lep_bench import config, planner, sources
    from lep_bench.store import Store

    family = model.split("/")[0]
    wide = suite.model_copy(
        update={"families": (family,) if family in known.names("families") else suite.families, "baselines": tuple(known.names("baselines"))}
    )
    specs = config.select([model], wide, known, methods)
    if len(specs) != 1:
        raise LepBenchError(f"{model} names {len(specs)} models: give one of {', '.join(spec.name for spec in specs[:4])}, ...")
    (spec,) = specs
    location, revision = spec.location, spec.revision
    if spec.family is not None and spec.tuning is None and spec.stage in ("base", "instruct"):
        given = known.family(spec.family)
        location, revision = getattr(given, spec.stage), getattr(given, f"{spec.stage}_revision")
    if location is None:
        plan = planner.make(wide, [spec], [file], known, methods, Store(out))
        maker = plan.makers[spec.key]
        if not maker.startswith("checkpoint:"):
            node = next((node for node in plan.cached if node.id == maker), None)
            if node is None:
                raise LepBenchError(
                    f"{model} is not built yet in {out}: run lep-bench run --suite {suite.name} --models {model} first, or name its --out"
                )
            return spec, node.folder
        location, revision = sources.parted(maker)
    folder = sources.locate_tokenizer(location, revision)
    if spec.family is None and spec.format is None:
        spec = replace(spec, format="chat" if sources.has_chat_template(folder) else "plain")
    return spec, folder
