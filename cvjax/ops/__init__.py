"""Pure functions of arrays, without Flax: convolutions, attention, boxes, patches and so on."""
