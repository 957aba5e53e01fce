"""Tasks are compiled once per tokenizer and scored model by model. `lmeval` and `rows` are all that
knows lm-eval's API.
"""
