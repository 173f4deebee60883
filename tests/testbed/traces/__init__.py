"""Traces of GPU use, made by seeded generators, and replayed through what decides.

No real GPU was at hand: what the signals read in each case is modelled, from what is
published about them (docs/benchmarks.md says which assumptions).
"""
