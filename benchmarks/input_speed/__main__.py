"""`python -m benchmarks.input_speed`: what it measures and its options are in `config.py`."""

from cvjax.workflow.command import command

if __name__ == "__main__":
    command("benchmarks.input_speed.config", "benchmarks.input_speed.measure")
