"""Sum conversion: conversion fitted on the sums of old subtokens instead of their means."""

from lep_bench.plugin import Params, propagation


@propagation("sum-conversion")
def sum_conversion(problem, params: Params):
    """Linear map from base to instruct rows, fitted on sums of subtokens over the new vocabulary.

    A further solver of the code of Tikhomirov and Chernyshev 2024 (arXiv 2412.21140; github.com/RefalMachine/ruadapt): D
    minimises || N (T E_base) D - N (T E_instruct) ||, N the number of old subtokens of each new token, so that long
    tokens weigh more than in conversion; E_lep = E_donor D.
    """
    counts = problem.decomposition.lengths
    d = problem.fit(problem.mixed("base", scale=counts), problem.mixed("instruct", scale=counts))
    return lambda rows, ids: rows @ d
