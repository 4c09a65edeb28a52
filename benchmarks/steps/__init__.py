"""Time of a training step or an inference, beside torch's where torch is installed."""
