"""Measurements of lep-bench, and the generator and trainer of its built-in world. None of it is in
the package.
"""
