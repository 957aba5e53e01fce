"""Whether the servers that a plan asks are there, may be asked, and have the models: before
anything is built.
"""

from __future__ import annotations

from lep_bench import hub
from lep_bench.errors import LepBenchError
from lep_bench.pipeline.plan import Node, Plan, Server


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
