"""What a plan needs before the work starts: its checkpoints, fetched, and its servers, asked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lep_bench import hub
from lep_bench.config.models import NamedCheckpoint
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.files import format_size
from lep_bench.pipeline.plan import Node, Plan, Server

BYTES = 2  # per parameter: published checkpoints are bfloat16 or float16


def list_read(plan: Plan, named: Iterable[NamedCheckpoint]) -> dict[str, NamedCheckpoint]:
    """By reference, what the plan's nodes read: with all that the configs know about it (`named`),
    else only its location.
    """
    known = {hub.format_reference(c.location, c.revision): c for c in named}
    read = {reference for node in plan.nodes.values() for reference in plan.reads(node)}
    given = {
        reference: NamedCheckpoint("", *hub.parse_reference(reference))
        for reference in sorted(read - known.keys())
    }
    return {reference: c for reference, c in (known | given).items() if reference in read}


def fetch_checkpoints(checkpoints: dict[str, NamedCheckpoint]) -> tuple[int, dict[str, str]]:
    """Fetch what is not here. Returns how many were fetched, and for what cannot be had, or would
    not fit on the disk with the rest: reference -> why, in one line.
    """
    wanted = {
        reference: c
        for reference, c in checkpoints.items()
        if hub.find_cached(c.location, c.revision) is None
    }
    need, folder = sum(c.parameters or 0 for c in wanted.values()) * BYTES, cache_folder()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    missing: dict[str, str] = {}
    reachable = True
    for reference, c in wanted.items():
        try:
            # offline nothing is fetched
            if need > free and os.environ.get("HF_HUB_OFFLINE") != "1":
                raise CheckpointError(
                    f"{c.location}: {format_size(need)} are to be fetched in all, "
                    f"{format_size(free)} are free in {folder}: set HF_HOME, or fetch less"
                )
            if not reachable:
                raise hub.HubUnreachableError.of(c.location)
            hub.locate(c.location, c.revision)
        except CheckpointError as error:
            reachable = reachable and not isinstance(error, hub.HubUnreachableError)
            missing[reference] = str(error)
    return len(wanted) - len(missing), missing


def cache_folder() -> Path:
    """Where the Hub's checkpoints are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def check_servers(todo: Plan, given: Server, offline: bool) -> None:
    """Ask each server what it serves. `given` is the command line's.

    Raises LepBenchError for no address, one that is not this machine and stands in a YAML only, or
    a model that is not served.
    """
    asked: dict[Server, list[Node]] = {}
    for node in todo.nodes.values():
        if node.server is not None and node.cells:
            asked.setdefault(node.server, []).append(node)
    if given.url and not asked and any(node.cells for node in todo.nodes.values()):
        raise LepBenchError(
            "--url names a server, and none of these models is asked there: add --engine api, "
            "or name models as api:NAME"
        )
    for server, nodes in asked.items():
        _check_server(server, nodes, bool(given.url), offline)


def _check_server(server: Server, nodes: list[Node], said: bool, offline: bool) -> None:
    from lep_bench.engines import api

    if not server.url:
        raise LepBenchError(
            f"{nodes[0].model} is to be asked at a server: name it with --url "
            "http://127.0.0.1:8000/v1"
        )
    url = api.check_url(server.url)
    if not api.is_loopback(url):
        if offline:
            raise LepBenchError(f"--offline: {url} is not on this machine")
        if not said:
            raise LepBenchError(
                f"{nodes[0].model}: its YAML names {url}, another machine: prompts go there "
                f"only when you say --url {url}"
            )
    client = api.ApiClient(url, api.find_key(url, server.key_variable))
    models = client.models()
    client.close()
    served = {name for model in models for name in (model.name, model.root)}
    missing = [node.model for node in nodes if not served & _names(node)]
    if missing:
        raise api.not_served(url, missing, models)


def _names(node: Node) -> set[str]:
    """What the node's model may be called by a server; as the engine looks for it."""
    from lep_bench.engines import api

    maker = node.parents["model"]
    if not maker.startswith("checkpoint:"):
        return api.list_names(node.model)
    location, revision = hub.parse_reference(maker)
    return api.list_names(
        location,
        None if hub.parse_served_name(location) is not None else hub.find_here(location, revision),
    )
