"""Pictures of what a model does and how its training went."""

from cvjax.visualize.curves import plot_curves
from cvjax.visualize.reconstruction import reconstruction_images, reconstruction_panel

__all__ = ["plot_curves", "reconstruction_images", "reconstruction_panel"]
