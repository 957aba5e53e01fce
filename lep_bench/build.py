"""Build what a plan's node asks for: one function per stage, each cached by its fingerprint and written atomically."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lep_bench import artifact, atomic, sources
from lep_bench.artifact import Artifact, Lep, Parent
from lep_bench.config import Configs, Family
from lep_bench.errors import AdapterError, CheckpointError, LepBenchError
from lep_bench.plan import Node
from lep_bench.plugin import Adapter, Params
from lep_bench.registry import Registry

Progress = Callable[[int, int, float], None]  # steps done, steps in all, current loss (NaN where there is none)


@dataclass
class Workshop:
    """What building needs: all nodes of the plan (cached ones too), the configs and the adapters."""

    nodes: Mapping[str, Node]
    configs: Configs
    registry: Registry

    def family(self, node: Node) -> Family:
        return self.configs.family(node.family or "")

    def adapter(self, node: Node) -> tuple[Adapter, Params]:
        """The node's adapter and its parameters."""
        kind = "vocabulary" if node.kind == "vocabulary" else "propagation" if node.kind == "propagation" else "tuning"
        adapter = self.registry.get(kind, node.adapter or "").adapter
        return adapter, adapter.params.model_validate(node.params)

    def folder(self, parent: str) -> Path:
        """The folder of a node or of `checkpoint:LOCATION[@REVISION]`."""
        if parent in self.nodes:
            return self.nodes[parent].folder
        location, revision = sources.parted(parent)
        return sources.locate(location, revision)

    def artifact(self, parent: str, stage: str = "checkpoint", weights: bool = True) -> Artifact:
        """The finished artifact of a node, or a whole checkpoint (see `artifact.whole`). Raises CheckpointError when it is not there."""
        if parent in self.nodes:
            try:
                return artifact.read(self.nodes[parent].folder)
            except CheckpointError as error:
                raise CheckpointError(f"{error}; remove {self.nodes[parent].folder} and run the same command again") from error
        location, revision = sources.parted(parent)
        return artifact.whole(location, location, stage, sources.checkpoint_digest(location, revision, weights), revision, weights)


def ensure(node: Node, shop: Workshop, progress: Progress) -> str:
    """Make the node's artifact unless it is there; returns one sensible line about it.

    Raises AdapterError when the adapter failed (the caller records it and goes on), LepBenchError for the rest.
    """
    done = {"vocabulary": "tokenizer.json", "answers": "answers.jsonl"}.get(node.kind, artifact.LEP)
    if (node.folder / done).is_file():
        return "cached"
    if node.folder.exists():  # ours come whole or not at all: somebody removed a part
        raise CheckpointError(f"{node.folder} is damaged (it has no {done}): remove it and run the same command again")
    line = STAGES[node.kind](node, shop, progress)
    if done == artifact.LEP:
        _must_be_sound(node.folder)
    return line


def _must_be_sound(folder: Path) -> None:
    """What breaks an invariant is not kept: the fault is ours, or an adapter's that its own checks let through."""
    from lep_bench.surgery import check

    try:
        check.refuse(folder)
    except CheckpointError:
        shutil.rmtree(folder)
        raise


def lep_of(node: Node, body: str, shop: Workshop) -> Lep:
    """The start of the artifact's `lep.json`: all that the plan knows. `body` is the role whose checkpoint is patched."""
    family = shop.family(node)
    parents = []
    for role, parent in {"body": node.parents[body], **node.parents}.items():
        if parent in shop.nodes:
            made = shop.nodes[parent]
            parents.append(Parent(role=role, name=made.model, location=str(made.folder), digest=made.fingerprint))
        else:
            location, revision = sources.parted(parent)
            name = f"{node.family}/{role}" if role in ("base", "instruct") else f"{node.family}/{body}" if role == "body" else location
            parents.append(Parent(role=role, name=name, location=location, revision=revision, digest=sources.checkpoint_digest(location, revision)))
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


def _vocabulary(node: Node, shop: Workshop, progress: Progress) -> str:
    from lep_bench.surgery import vocabulary
    from lep_bench.training import texts

    adapter, params = shop.adapter(node)
    vocabulary.build(shop.folder(node.parents["base"]), node.folder, adapter, params, texts.vocabulary_texts(shop.family(node).corpus))
    return f"{artifact.entries(node.folder):,} entries"


def _init(node: Node, shop: Workshop, progress: Progress) -> str:
    from lep_bench.surgery import propagate

    body = "instruct" if node.kind == "instruct-init" else "base"
    made = propagate.initialise(
        shop.folder(node.parents[body]),
        shop.folder(node.parents["base"]),
        shop.folder(node.parents["vocabulary"]),
        node.folder,
        lep=lep_of(node, body, shop),
        policy=shop.family(node).row_policy,
    )
    return "rows " + ", ".join(f"{count:,} {kind}" for kind, count in made.lep.rows.items())


def _donor(node: Node, shop: Workshop, progress: Progress) -> str:
    from lep_bench.training import pretrain, texts

    family = shop.family(node)
    assert family.pretraining is not None  # the plan has checked it
    start = shop.artifact(node.parents.get("start", node.parents["base"]), "base")
    made = pretrain.pretrain(
        start,
        node.folder,
        texts.pretraining_texts(family.corpus),
        family.pretraining,
        lep=lep_of(node, "base", shop),
        seed=node.seed,
        progress=progress,
    )
    record = made.lep.training
    return (
        f"{record['characters']:,} characters in {record['tokens']:,} tokens, loss {record['first_loss']:.2f} -> {record['last_loss']:.2f} per token"
    )


def _propagation(node: Node, shop: Workshop, progress: Progress) -> str:
    from lep_bench.surgery import propagate

    adapter, params = shop.adapter(node)
    made = propagate.propagate(
        shop.folder(node.parents["base"]),
        shop.folder(node.parents["instruct"]),
        shop.artifact(node.parents["donor"], "donor"),
        node.folder,
        adapter,
        params,
        lep=lep_of(node, "instruct", shop),
        policy=shop.family(node).row_policy,
    )
    fits = [f"{matrix} R2 {report['r2']:.3f}" for matrix, report in made.lep.fit.items() if report.get("r2") is not None]
    return ", ".join(fits) or "rows " + ", ".join(f"{count:,} {kind}" for kind, count in made.lep.rows.items())


def _answers(node: Node, shop: Workshop, progress: Progress) -> str:
    """Greedy answers of the original instruct model to the calibration prompts (paper, self-calibration)."""
    from lep_bench.engines.base import stop_ids
    from lep_bench.engines.hf import HfEngine
    from lep_bench.surgery import reading
    from lep_bench.training import texts

    instruct = shop.artifact(node.parents["instruct"], "instruct")
    prompts = texts.calibration_prompts(shop.family(node).corpus, node.params["answers"])
    tokenizer, notes = reading.load(instruct.folder)
    contexts = [tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True, return_dict=False) for p in prompts]
    engine = HfEngine(instruct.body)
    engine.exchange(instruct)
    stops = stop_ids(instruct.folder)
    answers = engine.generate(contexts, node.params["answer_tokens"], stops, (), tokenizer.decode)
    rows = [
        {
            "prompt": p,
            "answer": tokenizer.decode([i for i in ids if i not in stops], skip_special_tokens=True).strip(),
            "finished": len(ids) < node.params["answer_tokens"],
        }
        for p, ids in zip(prompts, answers, strict=True)
    ]
    with atomic.new_folder(node.folder) as folder:
        (folder / "answers.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return "; ".join((f"{len(rows)} answers of the original instruct model", *notes))


def _tuning(node: Node, shop: Workshop, progress: Progress) -> str:
    from lep_bench.training.tunable import Tunable

    adapter, params = shop.adapter(node)
    start = shop.artifact(node.parents["start"], "instruct")
    answers = shop.folder(node.parents["answers"]) / "answers.jsonl" if "answers" in node.parents else None
    model = Tunable(
        start=start,
        out=node.folder,
        answers_file=answers,
        corpus=shop.family(node).corpus,
        lep=lep_of(node, "instruct", shop),
        seed=node.seed,
        progress=progress,
    )
    with _boundary(adapter):
        made = adapter(model, params)
    if not isinstance(made, Artifact):
        raise AdapterError(
            f"tuning adapter {adapter.name!r} ({adapter.source}) gave back {type(made).__name__}: return what model.finetune(...) gives"
        )
    record: dict[str, Any] = made.lep.training
    return f"{record['examples']} examples, {record['steps']} steps, loss {record['first_loss']:.2f} -> {record['last_loss']:.2f}"


class _boundary:
    """Whatever an adapter raises becomes one AdapterError that names it; the run records it and goes on."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, LepBenchError):
            name = f"{self.adapter.kind} adapter {self.adapter.name!r}"
            raise AdapterError(f"{name} ({self.adapter.source}) raised {type(error).__name__}: {error}") from error


STAGES: dict[str, Callable[[Node, Workshop, Progress], str]] = {
    "vocabulary": _vocabulary,
    "init": _init,
    "instruct-init": _init,
    "donor": _donor,
    "propagation": _propagation,
    "answers": _answers,
    "tuning": _tuning,
}
