"""Engines: what reads token ids and gives back log-probabilities or generated ids."""
