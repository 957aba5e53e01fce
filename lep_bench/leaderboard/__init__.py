"""From scored cells to a table that says no more than the numbers do. Knows results and suites,
never how a model is run.
"""
