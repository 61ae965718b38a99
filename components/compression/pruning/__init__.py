"""Smaller networks: what is taken out, and how the rest learns again."""
