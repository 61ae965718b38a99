"""Weights in few bits: grids, what goes into them, and how they are written."""
