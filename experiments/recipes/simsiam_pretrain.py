"""What SimSiam's authors state: https://arxiv.org/abs/2011.10566, https://github.com/facebookresearch/simsiam."""

from typing import Any

from experiments.recipes import Recipe

_SHARED: dict[str, Any] = dict(
    flip=True, optimizer="momentum", momentum=0.9, schedule="cosine", warmup=0.0, decay="all", dim=2048,
    projector_hidden=2048, predictor_hidden=512, constant_predictor_rate=True, stop_gradient=True,
    crop_scale=(0.2, 1.0), color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2, blur_sigma=(0.1, 2.0))

_LACKS = ("The authors' rate changes with each epoch, here with each step.",)

RECIPES: dict[str, Recipe] = {
    "resnet50": Recipe(
        source="https://github.com/facebookresearch/simsiam, main_simsiam.py with --fix-pred-lr, as its README calls "
               "it; the paper's section 3",
        states=_SHARED | dict(
            data="tfds:imagenet2012", model="resnet50", image_size=224, batch_size=512, epochs=100,
            base_learning_rate=0.05, weight_decay=1e-4, projector_layers=3, blur=0.5, squeeze=False),
        lacks=(*_LACKS, "Their crops are resized bilinearly, here bicubically."),
        reached="linear 68.1 % of ImageNet's validation images"),
    "cifar10": Recipe(
        source="the paper, appendix D",
        states=_SHARED | dict(
            model="resnet18", model_fields=("stem=cifar",), batch_size=512, epochs=800, base_learning_rate=0.03,
            weight_decay=5e-4, projector_layers=2, blur=0.0),
        differs=dict(data="The paper names CIFAR-10; this folder holds it as files."),
        lacks=_LACKS, reached="linear 91.8 % of CIFAR-10's test images"),
}
