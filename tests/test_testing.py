"""`check_adapter` passes what keeps the contract and names what breaks it; every shipped adapter
passes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lep_bench import plugin
from lep_bench.errors import AdapterError
from lep_bench.plugin import KINDS
from lep_bench.testing import CASES, check_adapter

# Defaults are sizes of real models; the small ones have 16 dimensions and a few hundred tokens.
PARAMS = {
    ("vocabulary", "bpe"): {"size": 500},
    ("vocabulary", "unigram"): {"size": 500},
    ("vocabulary", "extended"): {"size": 60},
    ("vocabulary", "optimized"): {"size": 60, "keep": 290},
    ("vocabulary", "extended-union"): {"size": 500},
    ("vocabulary", "optimized-union"): {"size": 500, "keep": 290},
    ("tuning", "self-calibration"): {"answers": 16, "answer_tokens": 64, "copies": 16, "batch": 16},
}
SHIPPED = [(kind, name) for kind in KINDS for name in plugin.discover_adapters().names(kind)]


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_shipped_adapter_keeps_the_contract(kind: str, name: str) -> None:
    check_adapter(
        plugin.discover_adapters().get(kind, name).adapter, **PARAMS.get((kind, name), {})
    )


def test_small_models_come_in_every_kind() -> None:
    assert len({(case.kind, case.tied, case.padded) for case in CASES}) == 8


WRONG = {
    "rows[:, :8]": "float64 (",
    "rows.float()": "torch.float32",
    "rows * float('nan')": "NaN",
    "rows - rows.mean(0)": "cut into blocks",
    "rows + torch.rand_like(rows)": "different rows",
    "rows.no_such_method()": "AttributeError",
    "None": "NoneType",
}


@pytest.mark.parametrize("body", WRONG)
def test_a_broken_propagation_method_is_named_with_its_mistake(body: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "import torch\nfrom lep_bench.plugin import Params, propagation\n\n"
        "@propagation('wrong')\ndef wrong(problem, params: Params):\n    '''Wrong. Source: a "
        "test.'''\n"
        f"    return lambda rows, ids: {body}\n",
        encoding="utf-8",
    )
    with pytest.raises(AdapterError) as caught:
        check_adapter(file)
    text = str(caught.value)
    assert (
        "'wrong'" in text
        and "byte-level tokenizer" in text
        and (WRONG[body] in text or "cut into blocks" in text)
    )


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(AdapterError, match="strenth"):
        check_adapter(plugin.discover_adapters().get("propagation", "swap").adapter, strenth=1)
