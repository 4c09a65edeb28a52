"""The sources of the recipes of experiments.rcnn."""

from experiments.recipes import Recipe

RECIPES: dict[str, Recipe] = {
    "voc_rcnn": Recipe(
        "R-CNN: Girshick et al. 2014, sec. 2 and 3.2 (https://arxiv.org/abs/1311.2524), without fine-tuning, fc7; "
        "rcnn_train.m, rcnn_test.m and selective_search/ of its code (https://github.com/rbgirshick/rcnn)",
        dict(data="voc:VOC2007", methods=("rcnn",), training_pictures=5011, test_pictures=4952, proposals="fast",
             context=16, chunk=256),
        dict(canvas="Pictures get 500 pixels of width for selective search there; here a square of VOC's longest side.",
             max_proposals="There all are kept, about 2,000 in a picture (sec. 2.1).",
             model="The authors' is Caffe's with grouped convolutions; here torchvision's, whose weights are published "
             "in a form that is read.", weights="See model.",
             chunk="Regions that are computed together change no number; fewer need less memory."),
        ("Regions narrower than 20 pixels are left out.", "Hard negatives are mined picture by picture.",
         "Boxes are moved by pool5's features; here by the features that the SVMs see.",
         "Regions are warped to 227 pixels; here to the network's size."),
        reached="44.7 % mAP of VOC 2007 (Table 2), without bounding-box regression"),
}
