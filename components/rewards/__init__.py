"""What trainers that learn from rewards are rewarded for, one file each."""
