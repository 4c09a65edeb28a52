"""`python -m benchmarks.attention_cost`: what it measures and its options are in `config.py`."""

from cvjax.workflow.command import main

if __name__ == "__main__":
    main("benchmarks.attention_cost.config", "benchmarks.attention_cost.measure")
