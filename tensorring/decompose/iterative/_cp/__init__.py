"""What the CP methods are made of: the tensor swept over, starts, the normal form, steps."""
