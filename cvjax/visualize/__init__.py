"""Pictures of models, their predictions and their training."""

from cvjax.visualize.attention import attention_panel, mask_pictures
from cvjax.visualize.average_precision import plot_average_precision
from cvjax.visualize.boxes import detection_panel
from cvjax.visualize.confusion import plot_confusion
from cvjax.visualize.curves import plot_curves
from cvjax.visualize.heatmaps import heatmap_panel, overlay
from cvjax.visualize.kernels import kernel_images, kernel_panel
from cvjax.visualize.mistakes import mistake_panel
from cvjax.visualize.neighbours import neighbour_panel
from cvjax.visualize.predictions import plot_predictions
from cvjax.visualize.reconstruction import reconstruction_images, reconstruction_panel
from cvjax.visualize.reliability import plot_reliability
from cvjax.visualize.video import attention_video
from cvjax.visualize.views import views_panel

__all__ = ["attention_panel", "attention_video", "detection_panel", "heatmap_panel", "kernel_images", "kernel_panel",
           "mask_pictures", "mistake_panel", "neighbour_panel", "overlay", "plot_average_precision", "plot_confusion",
           "plot_curves", "plot_predictions", "plot_reliability", "reconstruction_images", "reconstruction_panel",
           "views_panel"]
