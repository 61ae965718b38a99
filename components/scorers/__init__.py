"""How right an answer is, one file each. Answers are read, never executed."""
