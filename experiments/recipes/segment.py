"""The sources of the recipes of experiments.segment."""

from experiments.recipes import Recipe

_FCN8S = dict(
    model="fcn8s_vgg16", flip=False, color_jitter=(0.0, 0.0, 0.0, 0.0), batch_size=1, accumulate=1, steps=300_000,
    optimizer="momentum", momentum=0.99, base_learning_rate=0.0048, weight_decay=5e-4 / 187_500, decay="matrices",
    bias_rate=2.0, schedule="constant", warmup=0.0, class_weights="none")
_FCN8S_SOURCE = (
    "FCN-8s at once: Shelhamer et al. 2017, sec. 4.3 (https://arxiv.org/abs/1605.06211), voc-fcn8s-atonce of its code "
    "(https://github.com/shelhamer/fcn.berkeleyvision.org); rate and decay, 1e-10 and 5e-4 there for the sum over an "
    "image's pixels, for the mean over 187,500")
_SKIPS = ("The code scales skips by 0.01 and 0.0001 for pixels up to 255; here these have a deviation of 1, which is "
          "57 times less.")
_FCN8S_LACKS = (
    "The sum over an image's pixels gives larger images more weight; here it is their mean.",
    "All upsampling is fixed; here only the last one is.",
    "Images are padded by 100 pixels; here to whole strides (see cvjax.models.fcn).",
    "Pictures are drawn with replacement; here an epoch shows each once.")

RECIPES: dict[str, Recipe] = {
    "voc_fcn8s": Recipe(
        _FCN8S_SOURCE, _FCN8S,
        dict(data="Labels of SBDD (8,498 pictures) are there, in Matlab's files, which are not read here; VOC 2012's "
             "own are 1,464.", model_fields=_SKIPS,
             crop_size="Whole images of any size there; here all have one shape, which holds 375x500 and 500x375.",
             crop_scale="By 4 / 3 of a picture's area a square of 500 pixels shows 375x500 whole and not resized; "
             "pictures of other proportions are resized by up to a few percent."),
        _FCN8S_LACKS, reached="65.4 % mIoU of seg11valid (README.md of the code)"),
    "camvid_fcn8s": Recipe(
        _FCN8S_SOURCE + "; for other data, of which the source says nothing", _FCN8S,
        dict(data="CamVid, which the paper does not use.", model_fields=_SKIPS,
             steps="A third, for there are 367 pictures.", crop_size="Whole images of CamVid.",
             crop_scale="Whole images of CamVid.", class_weights="As SegNet's authors weigh CamVid's classes "
             "(Badrinarayanan et al. 2017, https://arxiv.org/abs/1511.00561)."),
        _FCN8S_LACKS),
    "fcn_resnet50": Recipe(
        "torchvision's references/segmentation (https://github.com/pytorch/vision): README.md, train.py, presets.py",
        dict(model="fcn_resnet50", crop_size=(480, 480), crop_ratio=1.0, flip=True, epochs=30, batch_size=32,
             optimizer="momentum", base_learning_rate=0.16, backbone_rate=1.0, auxiliary_rate=10.0, weight_decay=1e-4,
             decay="all", schedule="polynomial", power=0.9, warmup=0.0, class_weights="none"),
        dict(data="COCO's pictures with VOC's classes are there; COCO's label maps are not read here.",
             crop_scale="The short side becomes 260 to 1040 pixels there, uniformly, before the crop; windows of 0.16 "
             "to 2.6 of a 4:3 picture's area have these scales, log-uniformly."),
        ("Batch norm's statistics are those of the 4 pictures of a GPU; here of all 32.",
         "It computes in float32.",
         "Evaluation resizes the short side to 520 pixels; here pictures keep their size."),
        reached="60.5 % mIoU of COCO's val2017 with VOC's classes"),
}
