"""Tasks are compiled once per tokenizer and scored model by model. `lmeval` knows lm-eval's tasks,
`engine_lm` is an engine as lm-eval's model; nothing else here imports lm-eval.
"""
