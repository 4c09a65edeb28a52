"""The experiments that users run: `python -m experiments.NAME [PRESET] [--field value]...`."""

import sys

from cvjax.train.preemption import StopRequest

if sys.argv[:1] == ["-m"]:  # Python is looking for NAME: a signal during the imports that follow ends in one line
    StopRequest().install()
    if "experiments" not in sys.orig_argv:  # the list of experiments needs no library
        from cvjax.workflow.menu import require_libraries

        require_libraries()
