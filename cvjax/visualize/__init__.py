"""Pictures of what a model does and how its training went."""

from cvjax.visualize.confusion import plot_confusion
from cvjax.visualize.curves import plot_curves
from cvjax.visualize.heatmaps import heatmap_panel, overlay
from cvjax.visualize.kernels import kernel_images, kernel_panel
from cvjax.visualize.mistakes import mistake_panel
from cvjax.visualize.reconstruction import reconstruction_images, reconstruction_panel
from cvjax.visualize.reliability import plot_reliability

__all__ = ["heatmap_panel", "kernel_images", "kernel_panel", "mistake_panel", "overlay", "plot_confusion",
           "plot_curves", "plot_reliability", "reconstruction_images", "reconstruction_panel"]
