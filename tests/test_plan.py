"""The order in which workers take the nodes of a plan: bodies are changed as seldom as can be, and
nobody idles.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lep_bench import plugin, tasks
from lep_bench.config.load import Configs
from lep_bench.config.models import select_models
from lep_bench.pipeline.plan import Plan, Settings, make_plan
from lep_bench.pipeline.schedule import estimate_makespan, simulate_schedule
from lep_bench.records.store import Store


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The mini suite from nothing: two families, so four bodies."""
    return mini(tmp_path_factory.mktemp("out"))


def mini(out: Path, engine: str = "hf") -> Plan:
    configs, found = Configs.of(), plugin.discover_adapters()
    suite = configs.suite("mini")
    models = select_models(["all"], suite, configs, found)
    return make_plan(
        suite,
        models,
        tasks.select_tasks(suite.tasks),
        configs,
        found,
        Store(out),
        Settings(engine=engine),
    )


def loads(plan: Plan, workers: int) -> list[tuple[int, str]]:
    """(worker, body) of every load of a body, where a worker keeps one."""
    found: list[tuple[int, str]] = []
    last: dict[int, str] = {}
    for worker, node, _ in simulate_schedule(plan, workers):
        if node.body and last.get(worker) != node.body:
            found.append((worker, node.body))
            last[worker] = node.body
    return found


def idle(plan: Plan, workers: int) -> list[str]:
    """Nodes that waited, ready, while a worker had nothing to do."""
    made = simulate_schedule(plan, workers)
    ends = {node.id: begin + node.seconds for _, node, begin in made}
    found = []
    for _, node, begin in made:
        ready = max([0.0, *(ends[need] for need in node.needs if need in ends)])
        for worker in range(workers):
            busy = sorted(
                (start, start + other.seconds) for slot, other, start in made if slot == worker
            )
            free = 0.0
            for start, end in [*busy, (float("inf"), float("inf"))]:
                if min(start, begin) - max(free, ready) > 1e-6:
                    found.append(
                        f"{node.id} waited while worker {worker} idled from "
                        f"{max(free, ready):.1f} s to {min(start, begin):.1f} s"
                    )
                free = end
    return found


def test_every_score_node_knows_its_body(plan):
    bodies = {node.model: node.body for node in plan.nodes.values() if node.kind == "score"}
    assert set(bodies.values()) == {
        f"checkpoint:builtin:{family}/{role}"
        for family in ("mini-llama", "mini-mistral")
        for role in ("base", "instruct")
    }
    for model, body in bodies.items():
        end = model.split("/")[-1].split("+")[0]
        assert body.endswith("/base" if end in ("base", "init", "donor") else "/instruct"), model
    assert all(not node.body for node in plan.nodes.values() if node.kind != "score")


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 8])
def test_no_worker_idles_while_a_node_waits(plan, workers):
    made = simulate_schedule(plan, workers)
    assert sorted(node.id for _, node, _ in made) == sorted(plan.nodes)
    assert not idle(plan, workers)
    span, bound = estimate_makespan(plan, workers)
    longest = max(node.seconds for node in plan.nodes.values())
    assert bound <= span + 1e-6
    if workers <= 2:
        assert span <= bound + longest


def test_one_worker_loads_every_body_once(plan):
    assert len(loads(plan, 1)) == 4


def test_for_vllm_a_tuned_model_stands_apart(tmp_path):
    """It costs a start of its own, and the models that are exchanged in place stand together before
    or after it.
    """
    plan = mini(tmp_path, "vllm")
    tuned = sum(node.kind == "score" and "+" in node.model for node in plan.nodes.values())
    assert tuned > 4
    assert len(loads(plan, 1)) == 4 + tuned
    assert not idle(plan, 4)


@pytest.mark.parametrize("workers", [2, 3, 4, 6, 8])
def test_several_workers_change_bodies_as_seldom_as_can_be(plan, workers):
    """Four loads are needed, and about one more per worker, which takes over what another would
    leave undone.
    """
    assert len(loads(plan, workers)) <= 4 + workers


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_bodies_are_loaded_by_as_many_workers_as_there_are(plan, workers):
    """Everything is built, only scoring is left: nobody idles, though there are fewer bodies than
    workers.
    """
    scores = {
        i: replace(node, needs=())
        for i, node in plan.nodes.items()
        if node.kind == "score" and node.model.startswith("mini-llama")
    }
    ready = replace(plan, nodes=scores)
    assert not idle(ready, workers)
    assert len({worker for worker, _ in loads(ready, workers)}) == workers
    assert len(loads(ready, workers)) <= 2 + workers
