"""What is learnt: bundles of pure functions that the training step calls.

Importing the package imports the detectors: each enters itself into `cvjax.tasks.detection.DETECTORS`.
"""

from cvjax.tasks import fast_rcnn, faster_rcnn, yolo

__all__ = ["fast_rcnn", "faster_rcnn", "yolo"]
