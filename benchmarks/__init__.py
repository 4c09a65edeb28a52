"""Speed and cost, measured: `python -m benchmarks` names the benchmarks. They are not installed with cvjax."""

import sys

from cvjax.train.preemption import StopRequest

if sys.argv[:1] == ["-m"]:  # as in `experiments`
    StopRequest().install()
