"""tensorring_torch."""
