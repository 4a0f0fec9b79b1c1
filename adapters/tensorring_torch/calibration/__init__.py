"""Fits to what layers do with unlabelled data: moments, targets, curves of error against cost, layer after layer."""
