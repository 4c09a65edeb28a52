"""`python -m benchmarks.compiled`: what it measures and its options are in `config.py`."""

from cvjax.workflow.command import command

if __name__ == "__main__":
    command("benchmarks.compiled.config", "benchmarks.compiled.measure")
