"""The work of each experiment: `experiments/NAME.py` has its options, `experiments/wiring/NAME.py` runs it."""
