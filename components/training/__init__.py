"""What the trainers share: configuration, checkpoints, guards, speed, adapters. A training loop is not among it."""
