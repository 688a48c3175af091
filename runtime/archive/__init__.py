"""Captions of whole archives: folders and tar shards of any size, on all cores of a machine or of a Ray cluster."""
