"""`python -m benchmarks.steps`: what it measures and its options are in `config.py`."""

from cvjax.workflow.command import command

if __name__ == "__main__":
    command("benchmarks.steps.config", "benchmarks.steps.measure")
