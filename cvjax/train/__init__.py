"""How to train: state, optimizers, the step and its devices, the loop, checkpoints, logs. Knows no model or task."""
