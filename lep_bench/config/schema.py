"""The keys of `configs/*/*.yaml`: families, suites, baselines and hardware. The descriptions are
the reference that users read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lep_bench.yamlfile import Frozen

RowPolicy = Literal["bytes-exact", "paper"]
# How the Darumeru paper's code renders messages (tasks/darumeru/prompts.py has the texts);
# template: the model's own chat template.
PaperFormat = Literal[
    "llama3",
    "llama3_no_system",
    "openchat_3.5_1210",
    "mistral",
    "non_instruct",
    "non_instruct_simple",
    "template",
]


class Pretraining(Frozen):
    """Continued pre-training of embeddings and head (arXiv 2412.21140, section 3.3)."""

    characters: int = Field(
        description="Text to read, in characters: one pass, the same text for every vocabulary."
    )
    block: int = Field(1024, description="Length of a training row, in tokens.")
    batch: int = Field(256, description="Rows per optimiser step.")
    learning_rate: float = Field(2e-4, description="Peak learning rate.")
    warmup: int = Field(100, description="Steps before the peak learning rate.")
    weight_decay: float = Field(0.1, description="Weight decay of AdamW.")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="Learning rate after the warm-up."
    )


class Vocabulary(Frozen):
    """One vocabulary of a family. With `donor` it is taken from a model that exists; without, its
    method makes it and pre-training makes the donor.
    """

    method: str | None = Field(
        None, description="The vocabulary adapter. Default: the name of the vocabulary."
    )
    params: dict[str, Any] = Field({}, description="Parameters of the adapter.")
    donor: str | None = Field(None, description="A donor that exists: a folder or a Hub id.")
    donor_revision: str | None = Field(None, description="Commit, tag or branch of the donor.")
    unverified: str = Field(
        "", description="What nobody could check about the donor. Listings and dry runs print it."
    )


class Tuning(Frozen):
    """A tuning that the family runs after some of its propagation methods."""

    after: tuple[str, ...] = Field(
        ("conversion",), description="The propagation methods that it follows."
    )
    params: dict[str, Any] = Field({}, description="Parameters of the adapter.")


class Family(Frozen):
    """`configs/families/NAME.yaml`: a base, its instruct model, and the vocabularies to try.

    A checkpoint is a folder (relative to the YAML file), a Hub id, or a shipped model such as
    `builtin:mini-llama/base`.
    """

    name: str
    description: str = Field("", description="One line for listings.")
    base: str = Field(description="The base model: folder, Hub id or `builtin:NAME/base`.")
    instruct: str = Field(description="The instruct model that was tuned from the base.")
    base_revision: str | None = Field(None, description="Commit, tag or branch of the base.")
    instruct_revision: str | None = Field(
        None, description="Commit, tag or branch of the instruct model."
    )
    parameters: int | None = Field(
        None, description="Parameters of each model. Estimates use it before the model is fetched."
    )
    conversation: PaperFormat | None = Field(
        None,
        description="Conversation format of the instruct model under protocol `paper`. Base models "
        "and donors are asked in `non_instruct_simple`.",
    )
    gated: bool = Field(
        False, description="Whether the Hub asks you to accept a licence for base and instruct."
    )
    licence: str = Field(
        "",
        description="The Hub's id of the licence of base and instruct (`apache-2.0`, `llama3`). "
        "Model cards print it.",
    )
    unverified: dict[Literal["base", "instruct", "corpus"], str] = Field(
        {}, description="What nobody could check about these. Listings and dry runs print it."
    )
    corpus: str | tuple[str, ...] | None = Field(
        None, description="Text to train on: files, a Hub dataset, or `builtin:mini`."
    )
    row_policy: RowPolicy = Field(
        "bytes-exact",
        description="How new tokens are split into old ones: `bytes-exact`, or `paper` as the "
        "authors' code does.",
    )
    vocabularies: dict[str, Vocabulary] = Field(
        description="Name of a vocabulary -> its settings. `original` keeps the old one."
    )
    pretraining: Pretraining | None = Field(
        None, description="How donors are trained. Needed where a vocabulary names no donor."
    )
    propagation: dict[str, dict[str, Any]] = Field(
        {"swap": {}, "overlap": {}, "conversion": {}},
        description="Propagation adapter -> its parameters.",
    )
    tuning: dict[str, Tuning] = Field({}, description="Tuning adapter -> its settings.")


class Baseline(Frozen):
    """`configs/baselines/NAME.yaml`: a model to compare with that belongs to no family."""

    name: str
    description: str = Field("", description="One line for listings.")
    model: str = Field(
        description="Folder, Hub id, `builtin:NAME`, or `api:NAME` for a model behind an "
        "OpenAI-compatible server."
    )
    revision: str | None = Field(None, description="Commit, tag or branch of the model.")
    format: Literal["plain", "chat"] = Field("chat", description="How the model is asked.")
    conversation: PaperFormat | None = Field(
        None, description="Conversation format under protocol `paper`."
    )
    url: str | None = Field(
        None,
        description="Address of the server of `api:NAME`. Only this machine may be named here; "
        "name another one with `--url`.",
    )
    key_variable: str | None = Field(
        None, description="Environment variable that holds the server's key."
    )
    parameters: int | None = Field(None, description="Parameters of the model, for estimates.")
    gated: bool = Field(False, description="Whether the Hub asks you to accept a licence.")
    unverified: str = Field("", description="What nobody could check about the model.")
    notes: str = Field("", description="For readers of the file.")


class Conversation(Frozen):
    """How one kind of model is asked."""

    format: Literal["plain", "chat"] = Field(
        description="`plain` text, or `chat` in the model's own chat template."
    )
    shots: int = Field(0, description="Solved examples before the question.")


class Mean(Frozen):
    """The suite's mean over named tasks."""

    name: str | None = Field(
        None,
        description="Head of the column. `Micro-Avg` is the paper's plain mean over its 17 tasks "
        "and nothing else.",
    )
    kind: Literal["plain", "centred"] = Field(
        description="`plain`, or `centred`: (score - chance) / (1 - chance)."
    )
    tasks: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        description="Task -> chance level of its primary score. Only a centred mean uses the level."
    )
    delta: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Differences within this, either way, count as equal (0.01: one point of 100).",
    )


class Suite(Frozen):
    """`configs/suites/NAME.yaml`: families, tasks, how models are asked, what is averaged."""

    name: str
    title: str = Field(description="Title of the leaderboard.")
    note: str = Field("", description="A remark below the title of the leaderboard.")
    families: tuple[str, ...] = Field((), description="Families whose models are compared.")
    baselines: tuple[str, ...] = Field((), description="Baselines that are scored beside them.")
    models: tuple[str, ...] = Field(("*",), description="Patterns that `--models all` stands for.")
    tasks: tuple[str, ...] = Field(description="Tasks, in the order of their columns.")
    lm_eval: tuple[str, ...] = Field(
        (),
        description="Folders below lm-eval's own task folder. The suite may name their tasks too.",
    )
    protocol: str = Field(
        description="A name for the rules. `paper` and `strict` are those of the Darumeru tasks."
    )
    base: Conversation = Field(
        Conversation(format="plain"), description="How base models and donors are asked."
    )
    instruct: Conversation = Field(
        Conversation(format="chat"), description="How instruct models are asked."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number format of the weights."
    )
    samplings: int = Field(
        1,
        ge=1,
        description="How often a task that samples its answers is asked, with seeds 0, 1, ...",
    )
    metadata: dict[str, Any] = Field({}, description="Settings that are passed on to the tasks.")
    mean: Mean = Field(description="The mean that models are ranked by.")
    groups: dict[str, tuple[str, ...]] = Field(
        {}, description="Column -> the tasks whose plain mean it shows."
    )
    without: dict[str, tuple[str, ...]] = Field(
        {}, description="Further mean -> the tasks of the suite's mean that it leaves out."
    )
    seeds: int = Field(1, description="Training seeds of every donor and tuning.")


# the names of its tasks begin so; the protocols they know
DARUMERU, PROTOCOLS = "darumeru_", ("paper", "strict")
# Metadata that tasks are told by a run itself, and who says it.
RESERVED_METADATA = {
    "protocol": "the suite's own field `protocol` says it",
    "conversation": "strict asks in the model's own chat template (`instruct: {format: plain}`: as "
    "plain text), paper in the format that the family's or baseline's YAML names (`conversation: "
    "llama3_no_system`)",
    "tokenizer": "it is the asked model's own",
    "pretrained": "it is the asked model",
    "data": "give it on the command line, --data DIR",
    "sampling_seed": "the suite's field `samplings` says how many seeds there are",
}


def find_suite_faults(suite: Suite) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with a suite beyond its fields' types: (the field, what is wrong and what to
    do).
    """
    means = [(("mean", "tasks"), tuple(suite.mean.tasks))]
    means += [
        ((part, label), tasks)
        for part in ("groups", "without")
        for label, tasks in getattr(suite, part).items()
    ]
    for where, tasks in means:
        for task in tasks:
            if task not in suite.tasks:
                yield where, f"{task} is not among the suite's tasks: {', '.join(suite.tasks)}"
    if suite.protocol != "paper" and any(
        "micro-avg" in label.lower()
        for label in (suite.mean.name or "", *suite.without, *suite.groups)
    ):
        yield (
            ("mean", "name"),
            "Micro-Avg is the paper's mean, under protocol paper: give another name",
        )
    if suite.protocol not in PROTOCOLS and (
        asked := next((task for task in suite.tasks if task.startswith(DARUMERU)), None)
    ):
        yield (
            ("protocol",),
            (
                f"{asked} and its like know {' and '.join(PROTOCOLS)}, not {suite.protocol!r}: "
                "write one of them"
            ),
        )
    for key, who in RESERVED_METADATA.items():
        if key in suite.metadata:
            yield ("metadata", key), f"take it out: {who}"
    for key in ("max_length", "prompt_characters"):
        value = suite.metadata.get(key)
        if value is not None and (type(value) is not int or value < 1):
            yield ("metadata", key), f"{value!r} is no whole number above 0"


class Devices(Frozen):
    """`configs/hardware/NAME.yaml`: what a run may use. It is recorded with results and is never
    part of a key.
    """

    name: str
    description: str = Field("", description="One line for listings.")
    engine: Literal["auto", "hf", "vllm", "api"] = Field(
        "auto", description="What scores the models. `--engine` wins."
    )
    device: Literal["cpu", "cuda"] = Field(description="Where models run.")
    workers: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Worker processes; `--workers` wins. Default: one per GPU (or per "
        "`tensor_parallel` GPUs), else one per core, at most 8.",
    )
    threads: int | None = Field(
        None, ge=1, description="Threads of each worker. Default: cores / workers."
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share one model (engine vllm).")
    memory: float | None = Field(
        None,
        gt=0,
        description="Engine vllm. On a GPU: the share of its memory (default 0.85). On a CPU: GiB "
        "for keys and values (default 1).",
    )
    batch_tokens: int | None = Field(
        None, ge=1, description="Most tokens in one batch (engine hf)."
    )


Paths = Annotated[
    tuple[Path, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]


class Project(Frozen):
    """`lep-bench.yaml`: defaults for the options of every command that is run in its folder.

    Paths are relative to the file. Where a key means folders, give one or a list.
    """

    suite: str | None = Field(None, description="The suite (`--suite`).")
    out: Path | None = Field(
        None, description="The folder for everything that is written (`--out`)."
    )
    configs: Paths = Field(
        (), description="Folders with families, suites and baselines (`--configs`)."
    )
    adapters: Paths = Field((), description="Folders with adapters (`--adapters`).")
    tasks: Paths = Field((), description="Folders with tasks (`--tasks-dir`).")
    data: Path | None = Field(None, description="A bundle, or a folder with rows (`--data`).")
