"""Steps for worker processes. They compute nothing, import no library, and fail, die or hang where a test wants it."""

import os
import signal
import time
from collections.abc import Callable


class PretendedSteps:
    """Each step sleeps `pause` seconds. at: "build", "run" or "product", where `fate` ("die", "fail", "hang") comes."""

    device, precision, loss = "cpu", "exact", 1.5

    def __init__(self, pause: float = 0.0, fate: str = "", at: str = "build", parameters: int = 10) -> None:
        self.pause, self.fate, self.at, self.parameters = pause, fate, at, parameters
        self.device_kind = f"{len(os.sched_getaffinity(0))} cores"
        self._meet("build")

    def start(self) -> dict[str, float]:
        return {"trace_seconds": 0.5}

    def run(self, count: int) -> None:
        self._meet("run")
        time.sleep(self.pause * count)

    def peak_memory(self) -> int | None:
        return None

    def product(self, side: int) -> Callable[[], None]:
        self._meet("product")
        return lambda: time.sleep(1e-3)

    def _meet(self, place: str) -> None:
        if place == self.at and self.fate == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if place == self.at and self.fate == "fail":
            raise RuntimeError("no\n  memory | for this" + "!" * 300)
        if place == self.at and self.fate == "hang":
            time.sleep(100)


def ours(workload) -> PretendedSteps:
    return PretendedSteps(2e-3)


def theirs(workload, variant: str, device: str) -> PretendedSteps:
    """In place of torch's variants, one for each fate."""
    return {"eager": lambda: PretendedSteps(1e-3, "fail", "product"),
            "eager+channels-last": lambda: PretendedSteps(parameters=11),
            "compile": lambda: PretendedSteps(0.0, "die", "run"),
            "compile+channels-last": lambda: PretendedSteps(0.0, "fail", "build")}[variant]()
