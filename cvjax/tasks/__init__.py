"""What is learnt: bundles of pure functions that the training step calls."""
