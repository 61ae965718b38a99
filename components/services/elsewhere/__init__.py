"""Steps of a run in other processes: how they start, what they tell, who may work at the same time."""
