"""Searches that the decoder graph cannot select by itself: the host does, from the graph's ``log_prob``."""
