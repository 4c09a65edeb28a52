"""Object detection: inputs, building detectors, average precision and pictures, R-CNN."""
