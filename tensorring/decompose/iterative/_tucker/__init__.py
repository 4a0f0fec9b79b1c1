"""What higher-order orthogonal iteration is made of: sweeps, starts, the search for ranks."""
