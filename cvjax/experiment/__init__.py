"""What all experiments share: command line, run folder, inputs, and the wiring of a training run."""
