"""The plan of a run: a graph of stages, each with the fingerprint of everything that determines its outcome.

vocabulary -> init -> donor -> propagation -> (answers of the instruct model) -> tuning -> score. Nothing here imports
torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lep_bench import sources
from lep_bench.config import Conversation, Family, ModelSpec, Suite
from lep_bench.fingerprint import digest
from lep_bench.results import ModelRecord, Scoring
from lep_bench.taskfiles import TaskFile

StageKind = Literal["vocabulary", "init", "instruct-init", "donor", "propagation", "answers", "tuning", "score"]

# Revision of our own code per stage: raise one by hand when a change to that stage changes its outcome.
REVISIONS: dict[str, int] = {"vocabulary": 1, "init": 2, "instruct-init": 2, "donor": 1, "propagation": 3, "answers": 1, "tuning": 1, "score": 1}


@dataclass(frozen=True)
class Server:
    """What answers for a model with engine api: `url` (empty: not named yet), and the environment variable that holds its key."""

    url: str = ""
    key_variable: str | None = None


@dataclass(frozen=True)
class Cell:
    """One task of a score node, and the key its result is stored under."""

    task: TaskFile
    key: str


@dataclass(frozen=True)
class Node:
    """One stage. `model` names what it makes (`FAMILY/VOCAB/...`), `needs` the ids of nodes that must be done before;
    `parents` maps roles (base, instruct, donor, start, vocabulary, answers) to node ids or `checkpoint:LOCATION`."""

    id: str
    kind: StageKind
    model: str
    group: str  # family/vocabulary: a worker stays with one, its engine and prompts are loaded already
    fingerprint: str
    folder: Path
    needs: tuple[str, ...] = ()
    parents: dict[str, str] = field(default_factory=dict)
    adapter: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    family: str | None = None
    record: ModelRecord | None = None
    conversation: Conversation | None = None
    scoring: Scoring | None = None
    cells: tuple[Cell, ...] = ()
    cached: bool = False
    seconds: float = 0.0
    bytes: int = 0
    body: str = ""  # of a score node: what an engine must have loaded, so that putting the model in place costs little
    server: Server | None = None  # of a score node: what is asked in place of an engine of ours


@dataclass(frozen=True)
class Plan:
    """What `run` executes: `nodes` still to do, `cached` nodes, the count of current cells, and `expected`: every cell
    (model, task, key) of the selection, current or not."""

    suite: Suite
    models: tuple[ModelSpec, ...]
    nodes: dict[str, Node]
    cached: tuple[Node, ...]
    current_cells: int
    expected: tuple[tuple[ModelRecord, str, str], ...]
    makers: dict[str, str]  # model key -> the node or checkpoint that makes it
    engine: str = "hf"  # what scores the models

    @property
    def cells(self) -> int:
        """Cells still to be scored."""
        return sum(len(node.cells) for node in self.nodes.values())

    def reads(self, node: Node) -> set[str]:
        """References (`checkpoint:LOCATION[@REVISION]`) of the checkpoints that a node reads, the bodies of cached patches included."""
        done = {n.id: n for n in self.cached}
        found = set()
        for parent in node.parents.values() if node.server is None else ():  # of what is served, the tokenizer alone is read
            reference = body(parent, done)
            if reference.startswith("checkpoint:"):
                found.add(reference)
        return found

    def without(self, checkpoints: Collection[str]) -> Plan:
        """The plan without the nodes that read one of these checkpoints, or need one that does."""
        left: dict[str, Node] = {}
        for node in _ordered(self.nodes):
            if self.reads(node).isdisjoint(checkpoints) and all(need in left or need not in self.nodes for need in node.needs):
                left[node.id] = node
        return replace(self, nodes=left)


def body(parent: str, nodes: Mapping[str, Node]) -> str:
    """The checkpoint that a model of `nodes` is a patch of; anything else is its own body."""
    while parent in nodes:  # a patch is laid over the instruct model's body, or the base's
        parents = nodes[parent].parents
        parent = parents.get("instruct") or parents.get("base", "")
    return parent


@dataclass(frozen=True)
class Settings:
    """What the command line adds to a suite: engine, server, row limit, speed of the hardware (estimates only)."""

    engine: str = "hf"
    server: Server = Server()
    limit: int | None = None
    flops: float = 6.0e10  # per second and worker, for estimates only


PAPER = "paper"  # the protocol in which models are asked in the conversation formats that Darumeru's authors listed
PAPER_PLAIN = "non_instruct_simple"  # ... base models and donors in this one


def asking(suite: Suite, spec: ModelSpec, family: Family | None, limit: int | None = None) -> tuple[Conversation, Scoring]:
    """How the suite asks a model: as its instruct models or its base models, and under protocol paper in which listed format."""
    chats = spec.is_instruct
    if spec.location is not None and spec.format is None:
        folder = sources.cached(spec.location, spec.revision)  # a plan never fetches; a model that is not here is taken to chat
        chats = folder is None or sources.has_chat_template(folder)
    conversation = suite.instruct if chats else suite.base
    listed = ""
    if suite.protocol == PAPER:
        own = spec.conversation or (family.conversation if family else None) or "template"
        listed = own if conversation.format == "chat" else PAPER_PLAIN
    return conversation, Scoring(
        protocol=suite.protocol, shots=conversation.shots, format=conversation.format, dtype=suite.dtype, limit=limit,
        conversation=listed, samplings=suite.samplings, metadata=suite.metadata,
    )  # fmt: skip


def cell_key(scoring: Scoring, engine: str, task: TaskFile, seed: int) -> str:
    """KEY of a result: scoring, engine, the task's fingerprint and the model's training seed. Values at their default
    when introduced are left out, so that a field added later changes no old key."""
    return digest(
        {
            "scoring": scoring.model_dump(exclude_defaults=True),
            "engine": engine,
            "task": task.fingerprint,
            "revision": REVISIONS["score"],
            **({"seed": seed} if seed else {}),
        }
    )


@dataclass(frozen=True)
class Seat:
    """What a worker has at hand: the group it worked on last, and the body its engine has loaded."""

    group: str | None = None
    body: str | None = None

    def after(self, node: Node) -> Seat:
        """Building loads no engine and leaves the one that is there."""
        return Seat(node.group, node.body or self.body)


def makespan(plan: Plan, workers: int) -> tuple[float, float]:
    """(estimated seconds of the run with `workers`, the bound total / workers) under the order that `run` uses."""
    ends = [begin + node.seconds for _, node, begin in schedule(plan, workers)]
    return max(ends, default=0.0), sum(n.seconds for n in plan.nodes.values()) / max(1, workers)


def schedule(plan: Plan, workers: int) -> list[tuple[int, Node, float]]:
    """(worker, node, second at which it begins) in the order that `run` uses, each node taking what was estimated for it."""
    ranks = priorities(plan)
    done: dict[str, float] = {}
    free = [0.0] * max(1, workers)
    seats = [Seat()] * len(free)
    waiting = dict(plan.nodes)
    made = []
    while waiting:
        slot = min(range(len(free)), key=free.__getitem__)
        begin = {
            n.id: max([0.0, *(done[d] for d in n.needs if d in plan.nodes)])
            for n in waiting.values()
            if all(d in done for d in n.needs if d in plan.nodes)
        }
        now = max(free[slot], min(begin.values()))
        node = pick([waiting[i] for i, at in begin.items() if at <= now], ranks, seats[slot], seats[:slot] + seats[slot + 1 :])
        free[slot] = done[node.id] = now + node.seconds
        seats[slot] = seats[slot].after(node)
        made.append((slot, waiting.pop(node.id), now))
    return made


def pick(ready: Sequence[Node], ranks: Mapping[str, float], own: Seat, others: Sequence[Seat]) -> Node:
    """The node an idle worker takes: first what trainings wait for, longest way first, and whatever else is to be built;
    then scores on the body it has loaded (another takes a vLLM up to half a minute, a patch less than a second), of its own
    group before others (prompts are compiled there). A new body is the one with the most to do per worker at it."""
    training = [node for node in ready if node.kind in ("vocabulary", "init", "donor", "answers")]
    if training:
        return max(training, key=lambda n: ranks[n.id])
    possible = [node for node in ready if not node.body] or [node for node in ready if node.body == own.body]
    if not possible:
        at = Counter(seat.body for seat in others)
        work = {b: sum(node.seconds for node in ready if node.body == b) for b in dict.fromkeys(node.body for node in ready)}
        most = max(work, key=lambda b: work[b] / (1 + at[b]))
        possible = [node for node in ready if node.body == most]
    groups = {seat.group for seat in others}
    return max(possible, key=lambda n: (n.group == own.group, n.group not in groups, ranks[n.id]))


def priorities(plan: Plan) -> dict[str, float]:
    """Per node the seconds of the longest way from it to the end: the critical path goes first."""
    rank: dict[str, float] = {}
    users: dict[str, list[str]] = {}
    for node in plan.nodes.values():
        for need in node.needs:
            users.setdefault(need, []).append(node.id)
    for node in reversed(_ordered(plan.nodes)):
        rank[node.id] = node.seconds + max((rank[u] for u in users.get(node.id, ())), default=0.0)
    return rank


def _ordered(nodes: dict[str, Node]) -> list[Node]:
    order: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if node.id not in order:
            for need in node.needs:
                if need in nodes:
                    visit(nodes[need])
            order[node.id] = node

    for node in nodes.values():
        visit(node)
    return list(order.values())
