"""The experiments that users run: `python -m experiments.NAME [PRESET] [--field value]...`."""

import sys

from cvjax.train.preemption import StopRequest

if sys.argv[:1] == ["-m"]:  # Python is looking for NAME: a signal during the imports that follow ends in one line
    StopRequest().install()
