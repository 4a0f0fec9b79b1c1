"""What alternating least squares of block terms is made of."""
