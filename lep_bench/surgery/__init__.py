"""Vocabulary surgery: canonical tokens, decomposition, propagation of embeddings, checks."""
