"""Arithmetic, time and memory of 2,000 regions under R-CNN, SPP-net, Fast R-CNN and Faster R-CNN."""
