"""The vLLM engine: its start, its worker extension, and the exchange of models inside a running
one.
"""
