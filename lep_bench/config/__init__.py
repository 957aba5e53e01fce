"""Families, suites, baselines and hardware as YAML, and the models that follow from them."""
