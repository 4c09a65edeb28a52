"""The experiments, a line for each; with a name and its arguments, that experiment itself.

    python -m experiments
    python -m experiments supervised folder --data folder:PATH

After `pip install .` the command `cvjax` does the same.
"""

import sys
from pathlib import Path

from cvjax.train.preemption import StopRequest
from cvjax.workflow.menu import choose, first_line

GROUPS = {
    "Train": ("supervised", "finetune", "distill", "mae_pretrain", "dino_pretrain", "simsiam_pretrain", "segment",
              "detect", "rcnn"),
    "Judge": ("evaluate", "knn", "linear_probe", "few_shot", "retrieval", "copy_detection", "compare",
              "report", "reproduce"),
    "Use": ("predict", "export", "push", "average", "embed", "pseudo_label", "attention", "propagate", "pack"),
    "Measure": ("inspect", "plan", "scaling"),
}


def main(arguments: list[str] | None = None) -> None:
    """List the experiments, or run the one that the first argument names; by default by this process's arguments."""
    if arguments is None:
        StopRequest().install()  # a signal during the imports of an experiment ends in one line
    lines = {heading: {name: first_line(Path(__file__).with_name(f"{name}.py")) for name in names}
             for heading, names in GROUPS.items()}
    program = "cvjax" if Path(sys.argv[0]).stem == "cvjax" else "python -m experiments"
    choose(program, "experiments", "experiment", lines, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    main()
