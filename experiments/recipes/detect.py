"""The sources of the recipes of experiments.detect."""

from experiments.recipes import Recipe

_YOLO = dict(
    data="voc:VOC2007+VOC2012", canvas=(448, 448), flip=True, exposure_jitter=(1.5, 1.5),
    color_jitter=(0.0, 0.0, 0.0, 0.0), epochs=135, batch_size=64, optimizer="momentum", base_learning_rate=0.04,
    weight_decay=5e-4, decay="matrices", bias_rate=1.0, schedule="step", milestones=(75 / 135, 105 / 135), factor=0.1,
    start_rate=0.1, score_threshold=0.001, nms_threshold=0.5)
_YOLO_CROPS = "Darknet moves each border of a picture by up to a fifth of the side, inwards or outwards; here "
_YOLO_DIFFERS = dict(
    crop_scale=_YOLO_CROPS + "a part of 0.64 to 1 of the area is shown.",
    crop_ratio=_YOLO_CROPS + "the proportions change by up to a fourth.",
    zoom_out=_YOLO_CROPS + "the part takes 0.8 to 1 of the room.",
    warmup="The rate rises over \"the first epochs\"; how many is not said.")
_YOLO_LACKS = (
    "Darknet stretches pictures to the square; here they keep their proportions, with grey beside them.",
    "Darknet draws pictures with replacement; here an epoch shows each once.",
    "Darknet judges every detection above the threshold; here the best 100 of a picture.",
    "The published cfg/yolov1.cfg is a later network, with batch norm, a locally connected layer, three boxes a cell, "
    "40,000 steps and random hues.")
_YOLO_SOURCE = ("YOLO: Redmon et al. 2016, sec. 2.2 and 3.1 (https://arxiv.org/abs/1506.02640), with Darknet's "
                "arithmetic (https://github.com/pjreddie/darknet: src/image.c, src/data.c, examples/yolo.c)")

# Of Caffe's solver and train.prototxt, and of lib/fast_rcnn/config.py, in both of R-CNN's authors' repositories.
_RCNN = dict(
    data="voc:VOC2007", sides=(600, 1000), crop_scale=(1.0, 1.0), flip=True, batch_size=2, optimizer="momentum",
    base_learning_rate=0.128, weight_decay=5e-4, bias_rate=2.0, schedule="step", factor=0.1, warmup=0.0,
    freeze="up-to:backbone/conv2_2", nms_threshold=0.3, max_detections=100)
_SQUARE = ("There a batch is as large as its pictures; here all shapes are fixed, and one square takes pictures of "
           "both orientations.")
_CAFFE = (
    "Pixels go up to 255, and only means are taken away; here they are normalised as the weights were trained.",
    "Each picture and its mirror image are shown once an epoch; here a mirror image is shown at random.",
    "Boxes end at whole pixels that count (x2 - x1 + 1); here they are continuous.")

RECIPES: dict[str, Recipe] = {
    "voc_yolov1": Recipe(_YOLO_SOURCE, _YOLO | dict(model="yolov1"), _YOLO_DIFFERS, _YOLO_LACKS,
                         reached="63.4 % mAP of VOC 2007 (Table 1)"),
    "voc_fast_yolov1": Recipe(_YOLO_SOURCE, _YOLO | dict(model="fast_yolov1"), _YOLO_DIFFERS, _YOLO_LACKS,
                              reached="52.7 % mAP of VOC 2007 (Table 1)"),
    "voc_fast_rcnn_vgg16": Recipe(
        "Fast R-CNN: Girshick 2015, sec. 2.3 (https://arxiv.org/abs/1504.08083), models/VGG16 and lib/fast_rcnn of its "
        "code (https://github.com/rbgirshick/fast-rcnn)",
        _RCNN | dict(model="fast_rcnn_vgg16", proposals="fast", max_proposals=2000, accumulate=1, decay="matrices",
                     steps=40_000, milestones=(3 / 4,), score_threshold=0.0),
        dict(canvas=_SQUARE, score_threshold="The code keeps the best 40 boxes of a class per picture of the set, "
             "whatever their scores; 0.05 is that of the author's later code, py-faster-rcnn."),
        ("A picture may have 100 detections of each class; here 100 of all classes together.",
         "Codes are normalised by their mean and deviation in the data; here by 0, and by 0.1 and 0.2, as in "
         "py-faster-rcnn.", "Both pictures of a step are of one orientation, to pad them little.",
         "Objects marked difficult are ground truth in training, too; here they are not, as in py-faster-rcnn.",
         *_CAFFE),
        reached="66.9 % mAP of VOC 2007 (Table 1; 68.1 without difficult objects)"),
    "voc_faster_rcnn_vgg16": Recipe(
        "Faster R-CNN: Ren et al. 2015 (https://arxiv.org/abs/1506.01497), "
        "models/pascal_voc/VGG16/faster_rcnn_end2end, experiments/cfgs/faster_rcnn_end2end.yml and lib/ of its code "
        "(https://github.com/rbgirshick/py-faster-rcnn)",
        _RCNN | dict(model="faster_rcnn_vgg16", proposals=None, accumulate=2, decay="all", steps=70_000,
                     milestones=(5 / 7,), score_threshold=0.05),
        dict(canvas=_SQUARE),
        ("An anchor has two logits, here one, and anchors are rounded to whole pixels in another way.", *_CAFFE),
        reached="69.9 % mAP of VOC 2007 with alternating training (Table 3)"),
    "coco_faster_rcnn_resnet50_fpn": Recipe(
        "torchvision's references/detection (https://github.com/pytorch/vision): README.md, train.py, engine.py",
        dict(data="coco:coco", model="faster_rcnn_resnet50_fpn", sides=(800, 1333), crop_scale=(1.0, 1.0), flip=True,
             epochs=26, batch_size=16, optimizer="momentum", base_learning_rate=0.32, weight_decay=1e-4, decay="all",
             bias_rate=1.0, schedule="step", milestones=(16 / 26, 22 / 26), factor=0.1, warmup=1000 / 190_580,
             start_rate=1e-3, freeze="up-to:backbone/layer1", score_threshold=0.05, nms_threshold=0.5,
             max_detections=100),
        dict(canvas=_SQUARE + " Its sides are the next whole strides.",
             max_boxes="There is no limit there; here all shapes are fixed."),
        ("The pictures of a batch have similar proportions (--aspect-ratio-group-factor 3).",
         "The rate changes once an epoch, but for the warm-up; here between two steps at the same shares of the run.",
         "Scale and bias of the backbone's norms are fixed; here only their statistics are."),
        reached="37.0 % box AP of COCO's val2017"),
}
