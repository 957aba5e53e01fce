"""my-method keeps the adapter contract on small models of every kind (run with pytest)."""

from pathlib import Path

from lep_bench.testing import check_adapter


def test_my_method() -> None:
    check_adapter(Path(__file__).with_name("my_method.py"))
