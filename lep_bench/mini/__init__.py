"""Two bilingual model families small enough to train and to score on two CPU cores, with the micro-world they know.

`world`, `stories` and `corpus` are light: importing them loads neither torch nor transformers.
"""
