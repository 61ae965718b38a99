"""Graphs: written, read, rounded, mended and held against the network that they were made of."""
