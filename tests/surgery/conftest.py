"""Fixtures of the surgery tests; makes pico_models and reference importable (importlib mode puts no
test folder on the path).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pico_models import Trio

from lep_bench.records.artifact import Lep
from lep_bench.testing.pico import donor, family


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trio]:
    """trio(kind, tied, padded) -> folders; made once per session, so never write into them."""

    @cache
    def make(kind: str = "byte-level", tied: bool = False, padded: bool = False) -> Trio:
        root = tmp_path_factory.mktemp(f"{kind}-{tied}-{padded}")
        base, instruct = family(root, tied=tied, padded=padded, kind=kind)
        return Trio(base, instruct, donor(root / "donor", base))

    return make


@pytest.fixture
def lep() -> Lep:
    return Lep(model="pico/vocab/method", fingerprint="0" * 16, kind="patch", stage="propagation")
