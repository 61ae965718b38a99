"""Example of a Postmill plugin."""
