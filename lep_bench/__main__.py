"""`python -m lep_bench` is `lep-bench`."""

from lep_bench.cli import main

main()
