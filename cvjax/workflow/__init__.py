"""What experiments share: configuration, command line, run folder, inputs, training, restoring."""
