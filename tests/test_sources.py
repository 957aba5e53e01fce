"""Where models and texts come from."""

import ast

from lep_bench import paths, sources


def test_the_built_in_corpus_is_fingerprinted_by_every_module_it_follows_from():
    """A module left out would let its changes pass unseen: donors trained on other text would count as current."""
    mini, found, waiting = paths.PACKAGE / "mini", set(), ["corpus"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse((mini / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                waiting += [node.module] if node.module else [alias.name for alias in node.names]
    assert found == set(sources.MINI_MODULES)
