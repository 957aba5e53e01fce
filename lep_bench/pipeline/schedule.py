from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lep_bench.pipeline.plan import Node, Plan, sort_by_need


@dataclass(frozen=True)
class Seat:
    """What a worker has at hand: the group it worked on last, and the body its engine has
    loaded.
    """

    group: str | None = None
    body: str | None = None

    def after(self, node: Node) -> Seat:
        """Building loads no engine and leaves the one that is there."""
        return Seat(node.group, node.body or self.body)


def estimate_makespan(plan: Plan, workers: int) -> tuple[float, float]:
    """(estimated seconds of the run with `workers`, the bound total / workers) under the order that
    `run` uses.
    """
    ends = [begin + node.seconds for _, node, begin in simulate_schedule(plan, workers)]
    return max(ends, default=0.0), sum(n.seconds for n in plan.nodes.values()) / max(1, workers)


def simulate_schedule(plan: Plan, workers: int) -> list[tuple[int, Node, float]]:
    """(worker, node, second at which it begins) in the order that `run` uses, each node taking what
    was estimated for it.
    """
    ranks = rank_nodes(plan)
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
        node = pick_node(
            [waiting[i] for i, at in begin.items() if at <= now],
            ranks,
            seats[slot],
            seats[:slot] + seats[slot + 1 :],
        )
        free[slot] = done[node.id] = now + node.seconds
        seats[slot] = seats[slot].after(node)
        made.append((slot, waiting.pop(node.id), now))
    return made


def pick_node(
    ready: Sequence[Node], ranks: Mapping[str, float], own: Seat, others: Sequence[Seat]
) -> Node:
    """The node an idle worker takes: first what trainings wait for, longest way first, and whatever
    else is to be built; then scores on the body it has loaded (another takes a vLLM up to half a
    minute, a patch less than a second), of its own group before others (prompts are compiled
    there). A new body is the one with the most to do per worker at it."""
    training = [node for node in ready if node.kind in ("vocabulary", "init", "donor", "answers")]
    if training:
        return max(training, key=lambda n: ranks[n.id])
    possible = [node for node in ready if not node.body] or [
        node for node in ready if node.body == own.body
    ]
    if not possible:
        at = Counter(seat.body for seat in others)
        work = {
            b: sum(node.seconds for node in ready if node.body == b)
            for b in dict.fromkeys(node.body for node in ready)
        }
        most = max(work, key=lambda b: work[b] / (1 + at[b]))
        possible = [node for node in ready if node.body == most]
    groups = {seat.group for seat in others}
    return max(possible, key=lambda n: (n.group == own.group, n.group not in groups, ranks[n.id]))


def rank_nodes(plan: Plan) -> dict[str, float]:
    """Per node the seconds of the longest way from it to the end: the critical path goes first."""
    rank: dict[str, float] = {}
    users: dict[str, list[str]] = {}
    for node in plan.nodes.values():
        for need in node.needs:
            users.setdefault(need, []).append(node.id)
    for node in reversed(sort_by_need(plan.nodes)):
        rank[node.id] = node.seconds + max((rank[u] for u in users.get(node.id, ())), default=0.0)
    return rank
