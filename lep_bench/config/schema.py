"""What stands in `configs/*/*.yaml`: the fields of a family, a suite, a baseline and a hardware."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

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
    """Continued pre-training of embeddings and head (paper, section 3.3). Lengths in tokens, rates
    per optimiser step.

    `characters` counts text: every vocabulary of a family reads the same characters in the same
    order, one pass.
    """

    characters: int
    block: int = 1024
    batch: int = 256
    learning_rate: float = 2e-4
    warmup: int = 100
    weight_decay: float = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"


class Vocabulary(Frozen):
    """One vocabulary of a family: its method (default: its name) and parameters, or a given donor
    (path or Hub id).
    """

    method: str | None = None
    params: dict[str, Any] = {}
    donor: str | None = None
    donor_revision: str | None = None
    # what nobody could check about the donor's id, in words; listings and dry runs say it
    unverified: str = ""


class Tuning(Frozen):
    """One tuning: which propagation methods it follows, and the method's parameters."""

    after: tuple[str, ...] = ("conversion",)
    params: dict[str, Any] = {}


class Family(Frozen):
    """`configs/families/NAME.yaml`: base, instruct, vocabularies. `builtin:NAME/base` is a shipped
    checkpoint, paths are relative to the YAML; `corpus` is a list of text files, a Hub dataset, or
    `builtin:mini`."""

    name: str
    description: str = ""
    base: str
    instruct: str
    base_revision: str | None = None
    instruct_revision: str | None = None
    parameters: int | None = None  # of each model, for estimates while it is not here
    # of the instruct model under protocol paper; base and donors: non_instruct_simple
    conversation: PaperFormat | None = None
    gated: bool = False  # whether base and instruct need their licence accepted on the Hub
    # of base and instruct, by the Hub's id of it (apache-2.0, llama3); for model cards
    licence: str = ""
    unverified: dict[Literal["base", "instruct", "corpus"], str] = {}
    corpus: str | tuple[str, ...] | None = None
    row_policy: RowPolicy = "bytes-exact"
    vocabularies: dict[str, Vocabulary]
    pretraining: Pretraining | None = None
    propagation: dict[str, dict[str, Any]] = {"swap": {}, "overlap": {}, "conversion": {}}
    tuning: dict[str, Tuning] = {}


class Baseline(Frozen):
    """`configs/baselines/NAME.yaml`: a stand-alone model to compare with. `model: api:NAME` is one
    behind an OpenAI-compatible server: `url` its address where it is this machine (others are named
    with --url), `key_variable` the environment variable with its key."""

    name: str
    description: str = ""
    model: str
    revision: str | None = None
    format: Literal["plain", "chat"] = "chat"
    conversation: PaperFormat | None = None  # under protocol paper
    url: str | None = None
    key_variable: str | None = None
    parameters: int | None = None
    gated: bool = False
    unverified: str = ""
    notes: str = ""


class Conversation(Frozen):
    """How one role of models is asked: plain text or chat, and the number of shots."""

    format: Literal["plain", "chat"]
    shots: int = 0


class Mean(Frozen):
    """The suite's mean: which tasks, plain or centred; `chance` is what guessing gives, per task
    (centred only).

    `name` heads its column ("Micro-Avg" is the paper's plain mean over its 17 tasks and nothing
    else)."""

    name: str | None = None
    kind: Literal["plain", "centred"]
    tasks: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        description="task -> chance level of its primary score"
    )
    delta: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="differences within this, either way, count as equal (0.01: one point of 100)",
    )


class Suite(Frozen):
    """`configs/suites/NAME.yaml`: families + tasks + scoring + mean. `models` are the patterns that
    `all` stands for.

    `protocol`: "paper" and "strict" are rules of the Darumeru tasks; others are names. `samplings`:
    how often a task that samples its answers is asked, with seeds 0, 1, ... `groups`: columns of
    plain means over some of the tasks; `without`: further means, and the tasks of the suite's mean
    that each leaves out. `metadata` is passed on to the tasks. `lm_eval`: folders below lm-eval's
    own task folder, whose tasks the suite may name beside those of ours and the user's.
    """

    name: str
    title: str
    note: str = ""
    families: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    models: tuple[str, ...] = ("*",)
    tasks: tuple[str, ...]
    lm_eval: tuple[str, ...] = ()
    protocol: str
    base: Conversation = Conversation(format="plain")
    instruct: Conversation = Conversation(format="chat")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    samplings: int = Field(1, ge=1)
    metadata: dict[str, Any] = {}
    mean: Mean
    groups: dict[str, tuple[str, ...]] = {}
    without: dict[str, tuple[str, ...]] = {}
    seeds: int = 1


# the names of its tasks begin so; the protocols they know
DARUMERU, PROTOCOLS = "darumeru_", ("paper", "strict")
# Metadata that tasks are told by a run itself, and who says it.
RESERVED_METADATA = {
    "protocol": "the suite's own field `protocol` says it",
    "conversation": "strict asks in the model's own chat template (`instruct: {format: plain}`: as plain "
    "text), paper in the format that the "
    "family's or baseline's YAML names (`conversation: llama3_no_system`)",
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
    """`configs/hardware/NAME.yaml`: what a run may use. Recorded with results, never part of a key;
    `--engine` and `--workers` take the place of its own. Without `workers`: one per GPU (or per
    `tensor_parallel` of them), else one per core, at most 8."""

    name: str
    description: str = ""
    engine: Literal["auto", "hf", "vllm", "api"] = "auto"
    device: Literal["cpu", "cuda"]
    workers: int | None = Field(None, ge=1, le=64)
    threads: int | None = Field(None, ge=1)  # of each worker; default cores / workers
    tensor_parallel: int = Field(1, ge=1)  # GPUs that share a model (engine vllm)
    # engine vllm: on a GPU the share of its memory (0.85), else GiB for keys and values (1)
    memory: float | None = Field(None, gt=0)
    batch_tokens: int | None = Field(None, ge=1)  # engine hf: tokens in one batch
