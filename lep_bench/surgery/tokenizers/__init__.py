"""Tokenizers as files: their tokens, how they are trained, loaded and measured."""
