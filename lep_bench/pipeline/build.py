"""Build what a plan's node asks for: one function per stage, each cached by its fingerprint and
written atomically.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lep_bench import files, hub
from lep_bench.config.load import Configs
from lep_bench.config.schema import Family
from lep_bench.errors import AdapterError, CheckpointError, LepBenchError
from lep_bench.pipeline.plan import Node
from lep_bench.plugin import Adapter, Kind, Params, Registry
from lep_bench.records import artifact
from lep_bench.records.artifact import Artifact, Lep, Parent

# steps done, steps in all, current loss (NaN where there is none)
Progress = Callable[[int, int, float], None]


@dataclass
class Workshop:
    """What building needs: all nodes of the plan (cached ones too), the configs and the
    adapters.
    """

    nodes: Mapping[str, Node]
    configs: Configs
    registry: Registry

    def family(self, node: Node) -> Family:
        return self.configs.family(node.family or "")

    def adapter(self, node: Node) -> tuple[Adapter, Params]:
        """The node's adapter and its parameters."""
        assert node.kind in ("vocabulary", "propagation", "tuning"), node.kind
        kind: Kind = node.kind
        adapter = self.registry.get(kind, node.adapter or "").adapter
        return adapter, adapter.params.model_validate(node.params)

    def folder(self, parent: str) -> Path:
        """The folder of a node or of `checkpoint:LOCATION[@REVISION]`."""
        if parent in self.nodes:
            return self.nodes[parent].folder
        location, revision = hub.parse_reference(parent)
        return hub.locate(location, revision)

    def artifact(self, parent: str, stage: str = "checkpoint", weights: bool = True) -> Artifact:
        """The finished artifact of a node, or a whole checkpoint (see `artifact.whole`). Raises
        CheckpointError when it is not there.
        """
        if parent in self.nodes:
            try:
                return artifact.read_artifact(self.nodes[parent].folder)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error}; remove {self.nodes[parent].folder} and run the same command again"
                ) from error
        location, revision = hub.parse_reference(parent)
        return artifact.open_checkpoint(
            location,
            location,
            stage,
            hub.checkpoint_digest(location, revision, weights),
            revision,
            weights,
        )


def build_node(node: Node, shop: Workshop, progress: Progress) -> str:
    """Make the node's artifact unless it is there; returns one sensible line about it.

    Raises AdapterError when the adapter failed (the caller records it and goes on), LepBenchError
    for the rest.
    """
    done = {"vocabulary": "tokenizer.json", "answers": "answers.jsonl"}.get(node.kind, artifact.LEP)
    if (node.folder / done).is_file():
        return "cached"
    if node.folder.exists():  # ours come whole or not at all: somebody removed a part
        raise CheckpointError(
            f"{node.folder} is damaged (it has no {done}): remove it and run the same command again"
        )
    line = STAGES[node.kind](node, shop, progress)
    if done == artifact.LEP:
        _refuse_unsound(node.folder)
    return line


def _refuse_unsound(folder: Path) -> None:
    """What breaks an invariant is not kept: the fault is ours, or an adapter's that its own checks
    let through.
    """
    from lep_bench.surgery import check

    try:
        check.refuse_errors(folder)
    except CheckpointError:
        shutil.rmtree(folder)
        raise


def describe_node(node: Node, body: str, shop: Workshop) -> Lep:
    """The start of the artifact's `lep.json`: all that the plan knows. `body` is the role whose
    checkpoint is patched.
    """
    family = shop.family(node)
    parents = []
    for role, parent in {"body": node.parents[body], **node.parents}.items():
        if parent in shop.nodes:
            made = shop.nodes[parent]
            parents.append(
                Parent(
                    role=role, name=made.model, location=str(made.folder), digest=made.fingerprint
                )
            )
        else:
            location, revision = hub.parse_reference(parent)
            name = (
                f"{node.family}/{role}"
                if role in ("base", "instruct")
                else f"{node.family}/{body}"
                if role == "body"
                else location
            )
            parents.append(
                Parent(
                    role=role,
                    name=name,
                    location=location,
                    revision=revision,
                    digest=hub.checkpoint_digest(location, revision),
                )
            )
    return Lep(
        model=node.model,
        fingerprint=node.fingerprint,
        kind="patch",
        stage=node.kind,
        parents=tuple(parents),
        adapter=node.adapter,
        params=node.params,
        row_policy=family.row_policy,
        seed=node.seed,
        resolved=node.resolved,
    )


def _build_vocabulary(node: Node, shop: Workshop, progress: Progress) -> str:
    from lep_bench.surgery import vocabulary
    from lep_bench.training import data

    adapter, params = shop.adapter(node)
    vocabulary.build_tokenizer(
        shop.folder(node.parents["base"]),
        node.folder,
        adapter,
        params,
        data.vocabulary_texts(shop.family(node).corpus),
    )
    return f"{artifact.count_entries(node.folder):,} entries"


def _build_init(node: Node, shop: Workshop, progress: Progress) -> str:
    from lep_bench.surgery import propagate

    body = "instruct" if node.kind == "instruct-init" else "base"
    made = propagate.initialise(
        shop.folder(node.parents[body]),
        shop.folder(node.parents["base"]),
        shop.folder(node.parents["vocabulary"]),
        node.folder,
        lep=describe_node(node, body, shop),
        policy=shop.family(node).row_policy,
    )
    return "rows " + ", ".join(f"{count:,} {kind}" for kind, count in made.lep.rows.items())


def _build_donor(node: Node, shop: Workshop, progress: Progress) -> str:
    from lep_bench.training import data, pretrain

    family = shop.family(node)
    assert family.pretraining is not None  # the plan has checked it
    start = shop.artifact(node.parents.get("start", node.parents["base"]), "base")
    made = pretrain.pretrain(
        start,
        node.folder,
        data.pretraining_texts(family.corpus),
        family.pretraining,
        lep=describe_node(node, "base", shop),
        seed=node.seed,
        progress=progress,
    )
    record = made.lep.training
    return (
        f"{record['characters']:,} characters in {record['tokens']:,} tokens, loss "
        f"{record['first_loss']:.2f} -> {record['last_loss']:.2f} per token"
    )


def _build_propagation(node: Node, shop: Workshop, progress: Progress) -> str:
    from lep_bench.surgery import propagate

    adapter, params = shop.adapter(node)
    made = propagate.propagate(
        shop.folder(node.parents["base"]),
        shop.folder(node.parents["instruct"]),
        shop.artifact(node.parents["donor"], "donor"),
        node.folder,
        adapter,
        params,
        lep=describe_node(node, "instruct", shop),
        policy=shop.family(node).row_policy,
    )
    fits = [
        f"{matrix} R2 {report['r2']:.3f}"
        for matrix, report in made.lep.fit.items()
        if report.get("r2") is not None
    ]
    return ", ".join(fits) or "rows " + ", ".join(
        f"{count:,} {kind}" for kind, count in made.lep.rows.items()
    )


def _build_answers(node: Node, shop: Workshop, progress: Progress) -> str:
    """Greedy answers of the original instruct model to the calibration prompts (paper,
    self-calibration).
    """
    from lep_bench.engines.base import read_stop_ids
    from lep_bench.engines.hf import HfEngine
    from lep_bench.surgery.tokenizers import loading
    from lep_bench.training import data

    instruct = shop.artifact(node.parents["instruct"], "instruct")
    prompts = data.calibration_prompts(shop.family(node).corpus, node.params["answers"])
    tokenizer, notes = loading.load_tokenizer(instruct.folder)
    contexts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": p}], add_generation_prompt=True, return_dict=False
        )
        for p in prompts
    ]
    engine = HfEngine(instruct.body)
    engine.exchange(instruct)
    stops = read_stop_ids(instruct.folder)
    answers = engine.generate(contexts, node.params["answer_tokens"], stops, (), tokenizer.decode)
    rows = [
        {
            "prompt": p,
            "answer": tokenizer.decode(
                [i for i in ids if i not in stops], skip_special_tokens=True
            ).strip(),
            "finished": len(ids) < node.params["answer_tokens"],
        }
        for p, ids in zip(prompts, answers, strict=True)
    ]
    with files.new_folder(node.folder) as folder:
        (folder / "answers.jsonl").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    return "; ".join((f"{len(rows)} answers of the original instruct model", *notes))


def _build_tuning(node: Node, shop: Workshop, progress: Progress) -> str:
    from lep_bench.training.finetune import Tunable

    adapter, params = shop.adapter(node)
    start = shop.artifact(node.parents["start"], "instruct")
    answers = (
        shop.folder(node.parents["answers"]) / "answers.jsonl"
        if "answers" in node.parents
        else None
    )
    model = Tunable(
        start=start,
        out=node.folder,
        answers_file=answers,
        corpus=shop.family(node).corpus,
        lep=describe_node(node, "instruct", shop),
        seed=node.seed,
        progress=progress,
    )
    with _explain_adapter_errors(adapter):
        made = adapter(model, params)
    if not isinstance(made, Artifact):
        raise AdapterError(
            f"tuning adapter {adapter.name!r} ({adapter.source}) gave back "
            f"{type(made).__name__}: return what model.finetune(...) gives"
        )
    record: dict[str, Any] = made.lep.training
    return (
        f"{record['examples']} examples, {record['steps']} steps, loss "
        f"{record['first_loss']:.2f} -> {record['last_loss']:.2f}"
    )


class _explain_adapter_errors:
    """Whatever an adapter raises becomes one AdapterError that names it; the run records it and
    goes on.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, LepBenchError):
            name = f"{self.adapter.kind} adapter {self.adapter.name!r}"
            raise AdapterError(
                f"{name} ({self.adapter.source}) raised {type(error).__name__}: {error}"
            ) from error


STAGES: dict[str, Callable[[Node, Workshop, Progress], str]] = {
    "vocabulary": _build_vocabulary,
    "init": _build_init,
    "instruct-init": _build_init,
    "donor": _build_donor,
    "propagation": _build_propagation,
    "answers": _build_answers,
    "tuning": _build_tuning,
}
