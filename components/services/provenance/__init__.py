"""Where a model comes from as a graph: its parts, what they tell, its drawing, its page."""
