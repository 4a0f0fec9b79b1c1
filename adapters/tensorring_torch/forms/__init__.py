"""One form a file: a low-rank tensor of a kernel's shape -> a chain of small kernels, in the order data passes them."""
