"""Training on after compression, and for it: recipes, penalties and products."""
