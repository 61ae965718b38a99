"""What belongs to a registered version: its evidence, its card, how it is loaded, how it moves."""
