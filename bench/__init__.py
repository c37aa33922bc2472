"""Benchmarks: what they measure is in RESULTS.md."""
