"""Layer 0: loops over memory, compiled by numba: the only folder that imports it. Each has a twin in `contract`."""
