"""`python -m benchmarks.region_cost`: what it measures and its options are in `config.py`."""

from cvjax.workflow.command import main

if __name__ == "__main__":
    main("benchmarks.region_cost.config", "benchmarks.region_cost.measure")
