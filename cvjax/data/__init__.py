"""Where examples come from, and how they become batches.

- `sources/` reads images with labels, `boxes/` images with boxes, `label_maps/` images with label maps;
- `dataset`, `held_out`: the data set that all of them give, and its held-out parts;
- `decode`, `resize`, `crops`: from an encoded image to pixels of one size, on the host;
- `pipeline`: from records to batches;
- `augment/`: random changes of a batch's images, on the device.

Nothing is imported here, so that `--help`, which reads the table of data sets, stays fast.
"""
