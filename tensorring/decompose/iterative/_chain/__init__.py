"""What the methods for trains and rings are made of: sweeps, starts, the search for lower ranks."""
