"""The generator and trainer of the built-in world: two bilingual model families, small enough for
two CPU cores.

Run from the checkout, each prints its options with --help:

    python -m benchmarks.mini.texts                             write lep_bench/mini/texts, which
        runs read
    python -m benchmarks.mini.taskdata                          write tasks/mini/data
    python -m benchmarks.mini.train mini-llama --out DIR        train base and instruct from nothing
        (minutes)
    python -m benchmarks.mini.measure DIR/instruct --chat       facts and copying, without lm-eval

`world`, `stories`, `corpus`, `texts` and `taskdata` are light: importing them loads neither torch
nor transformers.
"""
