"""Benchmarks. `make bench` runs them all and writes the tables of docs/benchmarks."""
