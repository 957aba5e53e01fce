"""The plan of a run: a graph of stages, each with the fingerprint of everything that determines its
outcome.

vocabulary -> init -> donor -> propagation -> (answers of the instruct model) -> tuning -> score.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lep_bench import corpora, hub
from lep_bench.config.load import Configs
from lep_bench.config.models import ORIGINAL, ModelSpec
from lep_bench.config.schema import Conversation, Family, Suite
from lep_bench.errors import ConfigError, UnknownNameError
from lep_bench.files import digest
from lep_bench.plugin import Kind, Params, Registry
from lep_bench.records import artifact
from lep_bench.records.artifact import REVISIONS
from lep_bench.records.schema import ModelRecord, Scoring, is_sealed
from lep_bench.records.store import Store, SuiteResults
from lep_bench.tasks import TaskFile

StageKind = Literal[
    "vocabulary", "init", "instruct-init", "donor", "propagation", "answers", "tuning", "score"
]


@dataclass(frozen=True)
class Server:
    """What answers for a model with engine api: `url` (empty: not named yet), and the environment
    variable that holds its key.
    """

    url: str = ""
    key_variable: str | None = None


@dataclass(frozen=True)
class PlannedCell:
    """One task of a score node, and the key its result is stored under."""

    task: TaskFile
    key: str


@dataclass(frozen=True)
class Node:
    """One stage. `model` names what it makes (`FAMILY/VOCAB/...`), `needs` the ids of nodes that
    must be done before; `parents` maps roles (base, instruct, donor, start, vocabulary, answers) to
    node ids or `checkpoint:LOCATION`."""

    id: str
    kind: StageKind
    model: str
    # family/vocabulary: a worker stays with one, its engine and prompts are loaded already
    group: str
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
    cells: tuple[PlannedCell, ...] = ()
    cached: bool = False
    seconds: float = 0.0
    bytes: int = 0
    # of a score node: what an engine must have loaded, so that putting the model in place costs
    # little
    body: str = ""
    server: Server | None = None  # of a score node: what is asked in place of an engine of ours


ExpectedCell = tuple[ModelRecord, str, str]  # model, task, key


@dataclass(frozen=True)
class Plan:
    """What `run` executes: `nodes` still to do, `cached` nodes, the count of current cells, and
    `expected`: every cell (model, task, key) of the selection, current or not. `shown`: every cell
    of the leaderboard, where the plan was made with one."""

    suite: Suite
    models: tuple[ModelSpec, ...]
    nodes: dict[str, Node]
    cached: tuple[Node, ...]
    current_cells: int
    expected: tuple[ExpectedCell, ...]
    makers: dict[str, str]  # model key -> the node or checkpoint that makes it
    engine: str = "hf"  # what scores the models
    shown: tuple[ExpectedCell, ...] = ()

    @property
    def cells(self) -> int:
        """Cells still to be scored."""
        return sum(len(node.cells) for node in self.nodes.values())

    def reads(self, node: Node) -> set[str]:
        """References (`checkpoint:LOCATION[@REVISION]`) of the checkpoints that a node reads, the
        bodies of cached patches included.
        """
        done = {n.id: n for n in self.cached}
        found = set()
        # of what is served, the tokenizer alone is read
        for parent in node.parents.values() if node.server is None else ():
            reference = find_body(parent, done)
            if reference.startswith("checkpoint:"):
                found.add(reference)
        return found

    def without(self, checkpoints: Collection[str]) -> Plan:
        """The plan without the nodes that read one of these checkpoints, or need one that does."""
        left: dict[str, Node] = {}
        for node in sort_by_need(self.nodes):
            if self.reads(node).isdisjoint(checkpoints) and all(
                need in left or need not in self.nodes for need in node.needs
            ):
                left[node.id] = node
        return replace(self, nodes=left)


@dataclass
class Outcome:
    """What came of a run: cells that failed as (model, task, why), models that could not be built
    and why, and seconds.
    """

    broken: dict[str, str] = field(default_factory=dict)
    failed: list[tuple[str, str, str]] = field(default_factory=list)
    built: int = 0
    scored: int = 0
    seconds: float = 0.0


def find_body(parent: str, nodes: Mapping[str, Node]) -> str:
    """The checkpoint that a model of `nodes` is a patch of; anything else is its own body."""
    while parent in nodes:  # a patch is laid over the instruct model's body, or the base's
        parents = nodes[parent].parents
        parent = parents.get("instruct") or parents.get("base", "")
    return parent


@dataclass(frozen=True)
class Settings:
    """What the command line adds to a suite: engine, server, row limit, speed of the hardware
    (estimates only).
    """

    engine: str = "hf"
    server: Server = Server()
    limit: int | None = None
    flops: float = 6.0e10  # per second and worker, for estimates only


# the protocol in which models are asked in the conversation formats that Darumeru's authors listed
PAPER = "paper"
PAPER_PLAIN = "non_instruct_simple"  # ... base models and donors in this one


def choose_scoring(
    suite: Suite, spec: ModelSpec, family: Family | None, limit: int | None = None
) -> tuple[Conversation, Scoring]:
    """How the suite asks a model: as its instruct models or its base models, and under protocol
    paper in which listed format.
    """
    chats = spec.is_instruct
    if spec.location is not None and spec.format is None:
        # a plan never fetches; a model that is not here is taken to chat
        folder = hub.find_cached(spec.location, spec.revision)
        chats = folder is None or hub.has_chat_template(folder)
    conversation = suite.instruct if chats else suite.base
    listed = ""
    if suite.protocol == PAPER:
        own = spec.conversation or (family.conversation if family else None) or "template"
        listed = own if conversation.format == "chat" else PAPER_PLAIN
    return conversation, Scoring(
        protocol=suite.protocol,
        shots=conversation.shots,
        format=conversation.format,
        dtype=suite.dtype,
        limit=limit,
        conversation=listed,
        samplings=suite.samplings,
        metadata=suite.metadata,
    )


def cell_key(scoring: Scoring, engine: str, task: TaskFile, seed: int) -> str:
    """KEY of a result: scoring, engine, the task's fingerprint and the model's training seed.
    Values at their default when introduced are left out, so that a field added later changes no old
    key."""
    return digest(
        {
            "scoring": scoring.model_dump(exclude_defaults=True),
            "engine": engine,
            "task": task.fingerprint,
            "revision": REVISIONS["score"],
            **({"seed": seed} if seed else {}),
        }
    )


def sort_by_need(nodes: dict[str, Node]) -> list[Node]:
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


def make_plan(
    suite: Suite,
    models: Sequence[ModelSpec],
    tasks: Sequence[TaskFile],
    configs: Configs,
    registry: Registry,
    store: Store,
    settings: Settings = Settings(),
    results: SuiteResults | None = None,
    shown: tuple[Sequence[ModelSpec], Sequence[TaskFile]] = ((), ()),
) -> Plan:
    """The plan for `models` x `tasks`; without tasks, the plan that only builds the models.

    `results` are those of the suite in `store`, where they were read already. `shown` are models
    and tasks of a leaderboard, of which the plan only says which cells are expected. Raises
    LepBenchError for anything that cannot work (names, parameters, files).
    """
    planner = Planner(suite, configs, registry, store, settings, results)
    current = sum(planner.score(spec, tasks) for spec in models)
    cached = tuple(node for node in planner.nodes.values() if node.cached)
    ends = [node.id for node in planner.nodes.values() if node.kind == "score" and node.cells]
    makers = {spec.key: planner.maker(spec)[0] for spec in models}
    wanted = _find_needed(planner.nodes, ends if tasks else list(makers.values()))
    todo = {i: n for i, n in planner.nodes.items() if i in wanted}
    return Plan(
        suite,
        tuple(models),
        todo,
        cached,
        current,
        tuple(cell for spec in models for cell in planner.expect(spec, tasks)),
        makers,
        settings.engine,
        tuple(cell for spec in shown[0] for cell in planner.expect(spec, shown[1])),
    )


def _find_needed(nodes: dict[str, Node], ends: list[str]) -> set[str]:
    """Ids of the nodes that `ends` still need; what stands behind a cached artifact is not looked
    at.
    """
    wanted: set[str] = set()
    stack = list(ends)
    while stack:
        node = nodes.get(stack.pop())
        if node is not None and node.id not in wanted and not node.cached:
            wanted.add(node.id)
            stack += node.needs
    return wanted


@dataclass(frozen=True)
class Subject:
    """Who is scored (`made_by` a node or a checkpoint) and how."""

    made_by: str
    record: ModelRecord
    family: Family | None
    conversation: Conversation
    scoring: Scoring
    server: Server | None


class Planner:
    """Collects the nodes of a plan, each with everything that it needs."""

    def __init__(
        self,
        suite: Suite,
        configs: Configs,
        registry: Registry,
        store: Store,
        settings: Settings,
        results: SuiteResults | None = None,
    ) -> None:
        self.suite, self.configs, self.registry = suite, configs, registry
        self.store, self.settings = store, settings
        self.results = results or store.results(suite.name)
        self.nodes: dict[str, Node] = {}
        self.families: dict[str, Family] = {}
        self.sources: dict[str, str] = {}
        self.corpora: dict[str, str] = {}
        self.asked: dict[str, Subject] = {}

    def family(self, name: str) -> Family:
        if name not in self.families:
            self.families[name] = self.configs.family(name)
        return self.families[name]

    def add(
        self,
        kind: StageKind,
        model: str,
        family: Family,
        parents: dict[str, str],
        resolved: dict[str, Any],
        *,
        seed: int = 0,
        adapter: str | None = None,
        params: dict[str, Any] | None = None,
        flops: float = 0.0,
        size: int = 0,
        group: str | None = None,
    ) -> Node:
        """Add a node once; its fingerprint hashes the parents' fingerprints and every resolved
        value.
        """
        name = model if seed == 0 else f"{model}@seed{seed}"
        node_id = f"{kind}:{name}"
        if node_id in self.nodes:
            return self.nodes[node_id]
        needs = tuple(p for p in parents.values() if p in self.nodes)
        prints = {
            role: self.nodes[p].fingerprint if p in self.nodes else self.source(p)
            for role, p in parents.items()
        }
        resolved = {"stage": kind, "revision": REVISIONS[kind], "parents": prints, **resolved}
        if adapter:
            assert kind in ("vocabulary", "propagation", "tuning"), kind
            entry = self.registry.get(kind, adapter)
            resolved |= {"adapter": adapter, "source": entry.source_digest, "params": params or {}}
        if kind in ("donor", "tuning"):
            resolved["seed"] = seed
        print_ = digest(resolved)
        folder = self.store.artifact(
            f"{model}/vocabulary"
            if kind == "vocabulary"
            else f"{model}/answers"
            if kind == "answers"
            else name,
            print_,
        )
        marker = {"vocabulary": "tokenizer.json", "answers": "answers.jsonl"}.get(
            kind, artifact.LEP
        )
        node = Node(
            node_id,
            kind,
            name,
            group or "/".join(model.split("/")[:2]),
            print_,
            folder,
            needs,
            parents,
            adapter,
            params or {},
            resolved,
            seed,
            family.name,
            cached=(folder / marker).is_file(),
            seconds=0.5 + flops / self.settings.flops + size / 2e8,  # written at 200 MB/s
            bytes=size,
        )
        self.nodes[node_id] = node
        return node

    def corpus(self, family: Family) -> str:
        """The digest of the family's training texts."""
        if family.name not in self.corpora:
            self.corpora[family.name] = corpora.corpus_digest(family.corpus)
        return self.corpora[family.name]

    def source(self, parent: str, weights: bool = True) -> str:
        if parent not in self.sources:
            self.sources[parent] = hub.checkpoint_digest(*hub.parse_reference(parent), weights)
        return self.sources[parent]

    def base(self, family: Family) -> str:
        return hub.format_reference(family.base, family.base_revision)

    def instruct(self, family: Family) -> str:
        return hub.format_reference(family.instruct, family.instruct_revision)

    def params(
        self, kind: Kind, name: str, given: dict[str, Any], family: Family, *where: str
    ) -> dict[str, Any]:
        """Every value of the adapter's parameters, defaults included; errors name the config's
        file, line and field.
        """
        try:
            cls: type[Params] = self.registry.get(kind, name).adapter.params
            return cls.model_validate(given).model_dump(mode="json")
        except ValidationError as error:
            first = error.errors()[0]
            place = self.configs.locate_field(
                "families", family.name, *where, *map(str, first["loc"])
            )
            wrong = (
                "unknown parameter" if first["type"] == "extra_forbidden" else first["msg"].lower()
            )
            raise ConfigError(
                f"{place}: {wrong}; parameters of {name}: {', '.join(cls.model_fields) or 'none'}"
            ) from error
        except UnknownNameError as error:
            raise UnknownNameError(
                f"{self.configs.locate_field('families', family.name, *where)}: {error}"
            ) from error

    def size(self, family: Family) -> int:
        """Bytes of an embedding patch, roughly: a quarter of a small model, 2 GB of an 8B one."""
        return min(self.parameters(family), 1_000_000_000) * 2

    def parameters(self, family: Family) -> int:
        """Of one model of the family, for estimates."""
        return family.parameters or hub.count_parameters(family.base)

    def vocabulary(self, family: Family, name: str) -> Node:
        given = family.vocabularies[name]
        method = given.method or name
        params = self.params(
            "vocabulary", method, given.params, family, "vocabularies", name, "params"
        )
        # about a million a second
        characters = family.pretraining.characters if family.pretraining else 0
        return self.add(
            "vocabulary",
            f"{family.name}/{name}",
            family,
            {"base": self.base(family)},
            {"corpus": self.corpus(family)},
            adapter=method,
            params=params,
            flops=self.settings.flops * (3 + characters / 1e6),
            size=1_000_000,
        )

    def init(self, family: Family, name: str, kind: StageKind = "init") -> Node:
        vocabulary = (
            self.donor(family, name, 0)
            if family.vocabularies[name].donor
            else self.vocabulary(family, name).id
        )
        parents = {"vocabulary": vocabulary, "base": self.base(family)}
        if kind == "instruct-init":
            parents["instruct"] = self.instruct(family)
        return self.add(
            kind,
            f"{family.name}/{name}/{kind}",
            family,
            parents,
            {"row_policy": family.row_policy},
            size=self.size(family),
        )

    def donor(self, family: Family, name: str, seed: int) -> str:
        """The node that trains the donor, or the checkpoint the family gives."""
        model, given = f"{family.name}/{name}/donor", family.vocabularies[name]
        if given.donor is not None:
            return hub.format_reference(given.donor, given.donor_revision)
        if family.pretraining is None:
            place = self.configs.locate_field("families", family.name, "vocabularies", name)
            raise ConfigError(f"{place}: neither a `donor` nor `pretraining` settings to train one")
        parents = (
            {"base": self.base(family)}
            if name == ORIGINAL
            else {"base": self.base(family), "start": self.init(family, name).id}
        )
        tokens = family.pretraining.characters / 2.8
        return self.add(
            "donor",
            model,
            family,
            parents,
            {
                "corpus": self.corpus(family),
                "pretraining": family.pretraining.model_dump(),
            },
            seed=seed,
            flops=6 * tokens * self.parameters(family),
            size=self.size(family),
        ).id

    def maker(self, spec: ModelSpec) -> tuple[str, tuple[str, ...]]:
        """What makes the model (a node id or `checkpoint:...`) and its lineage, nearest parent
        first.
        """
        if spec.location is not None:
            return hub.format_reference(spec.location, spec.revision), (spec.location,)
        family = self.family(spec.family or "")
        vocabulary = spec.vocabulary or ""
        if spec.stage == "base":
            return self.base(family), (family.base,)
        if spec.stage == "init" or spec.stage == "instruct-init":
            made_by = self.init(family, vocabulary, spec.stage).id
        elif spec.stage == "donor":
            made_by = self.donor(family, vocabulary, spec.seed)
        else:
            made_by = (
                self.instruct(family)
                if spec.stage == "instruct"
                else self.propagation(spec, family).id
            )
            if spec.tuning is not None:
                made_by = self.tuning(spec, family, made_by).id
        parents = self.nodes[made_by].parents.values() if made_by in self.nodes else (made_by,)
        return made_by, tuple(dict.fromkeys(p.partition(":")[2] for p in parents))

    def propagation(self, spec: ModelSpec, family: Family) -> Node:
        method = spec.propagation or ""
        params = self.params(
            "propagation", method, family.propagation.get(method, {}), family, "propagation", method
        )
        donor = self.donor(family, spec.vocabulary or "", spec.seed)
        parents = {"base": self.base(family), "instruct": self.instruct(family), "donor": donor}
        return self.add(
            "propagation",
            f"{family.name}/{spec.vocabulary}/{method}",
            family,
            parents,
            {"row_policy": family.row_policy},
            seed=spec.seed,
            adapter=method,
            params=params,
            # Normal equations and projection: 6 V d^2 for each of two matrices; the patch holds 4 V
            # d bytes, d is about sqrt(parameters / 480).
            flops=3 * self.size(family) * (self.parameters(family) / 480) ** 0.5,
            size=self.size(family),
        )

    def tuning(self, spec: ModelSpec, family: Family, start: str) -> Node:
        name = spec.tuning or ""
        given = family.tuning[name].params if name in family.tuning else {}
        params = self.params("tuning", name, given, family, "tuning", name, "params")
        parents = {"start": start, "instruct": self.instruct(family)}
        resolved: dict[str, Any] = {"corpus": self.corpus(family)}
        count, tokens = int(params.get("answers", 0)), int(params.get("answer_tokens", 64))
        if count:
            answers = self.add(
                "answers",
                f"{family.name}/instruct",
                family,
                {"instruct": self.instruct(family)},
                {**resolved, "answers": count, "answer_tokens": tokens},
                params={"answers": count, "answer_tokens": tokens},
                flops=2 * count * tokens * self.parameters(family),
                size=200 * count,
                group=f"{family.name}/instruct",
            )
            parents["answers"] = answers.id
        model = spec.name
        return self.add(
            "tuning",
            model,
            family,
            parents,
            resolved,
            seed=spec.seed,
            adapter=name,
            params=params,
            flops=6 * (count + int(params.get("copies", 0))) * tokens * self.parameters(family),
            size=self.size(family),
        )

    def ask(self, spec: ModelSpec) -> Subject:
        """What is scored, and how: the same for every task."""
        if spec.key in self.asked:
            return self.asked[spec.key]
        made_by, lineage = self.maker(spec)
        node = self.nodes.get(made_by)
        server = self.server(spec)
        record = ModelRecord(
            name=spec.name,
            family=spec.family,
            vocabulary=spec.vocabulary,
            stage=spec.stage,
            propagation=spec.propagation,
            tuning=spec.tuning,
            variant=spec.variant,
            seed=spec.seed,
            lineage=lineage,
            fingerprint=node.fingerprint if node else self.source(made_by, weights=server is None),
        )
        family = self.family(spec.family) if spec.family else None
        conversation, scoring = choose_scoring(self.suite, spec, family, self.settings.limit)
        if server is not None:
            scoring = scoring.model_copy(update={"dtype": "unknown"})  # no server tells
        self.asked[spec.key] = Subject(made_by, record, family, conversation, scoring, server)
        return self.asked[spec.key]

    def expect(self, spec: ModelSpec, tasks: Iterable[TaskFile]) -> Iterator[ExpectedCell]:
        """The model's cells, current or not."""
        asked = self.ask(spec)
        engine = "api" if asked.server else self.settings.engine
        for task in tasks:
            yield asked.record, task.name, cell_key(asked.scoring, engine, task, spec.seed)

    def score(self, spec: ModelSpec, tasks: Sequence[TaskFile]) -> int:
        """Add the score node with the cells that are not current. Returns the count of current
        cells.
        """
        asked = self.ask(spec)
        made_by, record, server = asked.made_by, asked.record, asked.server
        cells = []
        for task, (_, _, key) in zip(tasks, self.expect(spec, tasks)):
            old = self.results.find(spec.name, task.name, key)
            # What failed is tried again. What was changed by hand is not written over.
            failed = old is not None and old.status != "ok" and is_sealed(old)
            if old is None or failed or old.model.fingerprint != record.fingerprint:
                cells.append(PlannedCell(task, key))
        # How fast a server is, nobody knows.
        count = (
            0
            if server
            else self.parameters(asked.family)
            if asked.family
            else spec.parameters or hub.count_parameters(spec.location or "")
        )
        tokens = (
            25_000
            * (1 + asked.conversation.shots)
            * max(1, len(cells))
            * (1 if self.settings.limit is None else 0.1)
        )
        group = f"{spec.family}/{spec.vocabulary or 'original'}" if spec.family else spec.name
        node_id = f"score:{spec.key}"
        self.nodes[node_id] = Node(
            node_id,
            "score",
            spec.key,
            group,
            record.fingerprint,
            self.store.root,
            (made_by,) if made_by in self.nodes else (),
            {"model": made_by},
            seed=spec.seed,
            family=spec.family,
            record=record,
            conversation=asked.conversation,
            scoring=asked.scoring,
            cells=tuple(cells),
            cached=not cells,
            seconds=0.5 + 2.0 * count * tokens / self.settings.flops,
            bytes=200_000 * len(cells),
            # vLLM cannot exchange what tunings change
            body=made_by
            if spec.tuning and self.settings.engine == "vllm"
            else find_body(made_by, self.nodes),
            server=server,
        )
        return len(tasks) - len(cells)

    def server(self, spec: ModelSpec) -> Server | None:
        """Who answers for the model: a server where it is served by name or engine api was asked
        for. The command line's comes first.
        """
        if hub.parse_served_name(spec.location or "") is None and self.settings.engine != "api":
            return None
        given = self.settings.server
        return Server(given.url or spec.url or "", given.key_variable or spec.key_variable)
