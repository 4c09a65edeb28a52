"""The sources of the recipes of experiments.supervised."""

from experiments.recipes import Recipe

# What the recipes for ImageNet share with nearly all of their sources.
_IMAGENET = dict(data="tfds:imagenet2012", image_size=224, crop_scale=(0.08, 1.0), flip=True)
_CROPS = ("Training crops are bilinear there.",)
_EPOCHS = "There the rate changes once an epoch, here at every step."
_BIASES = "There the biases of linear layers decay, too."

# timm's scheduler, with which DeiT and A1 to A3 were trained.
_TIMM_COSINE = ("The cosine runs over all epochs, and the warm-up replaces its beginning; here it starts at the peak, "
                "after the warm-up.", _EPOCHS)

_TRANSFORMER = _IMAGENET | dict(
    epochs=300, batch_size=1024, optimizer="adamw", base_learning_rate=2.5e-4, weight_decay=0.05, decay="matrices",
    schedule="cosine", start_rate=1e-3, final_rate=1e-2, policy="rand_augment", policy_table="timm", policy_ops=2,
    policy_magnitude=9.0, policy_magnitude_std=0.5, policy_probability=0.5, color_jitter=(0.0, 0.0, 0.0, 0.0),
    mixup=0.8, cutmix=1.0, label_smoothing=0.1, erasing=0.25, erasing_mode="pixel", ema_decay=None, crop=None)

_STRIKES_BACK = _IMAGENET | dict(
    model="resnet50", batch_size=2048, optimizer="lamb", clip_norm=1.0, decay="matrices", criterion="bce",
    bce_threshold=0.2, schedule="cosine", policy="rand_augment", policy_table="timm", policy_ops=2,
    policy_magnitude=7.0, policy_magnitude_std=0.5, policy_probability=0.5, cutmix=1.0, label_smoothing=0.0,
    erasing=0.0, crop=0.95, batch_norm_group=512, ema_decay=None)
_OF_STRIKES_BACK = "ResNet strikes back: Wightman et al. 2021, Table 2 (https://arxiv.org/abs/2110.00476)"

_AIRBENCH = dict(
    batch_size=1024, optimizer="nesterov", momentum=0.85, decay="all", norm_bias_rate=64.0, schedule="linear",
    ema_decay=0.95**5, lookahead=5, crop_scale=(1.0, 1.0), flip=True, alternating_flip=True, shift_padding="reflect",
    label_smoothing=0.2, test_views="mirror_shift", start_rate=0.2)
_AIRBENCH_DIFFERS = dict(
    data="A folder of images, which need not be CIFAR-10's.", base_learning_rate="The source decouples its rates: "
    "peak 11.5 (airbench96: 9) of a sum over 1024 losses is this of their mean with momentum.",
    weight_decay="The same decay of a step: 0.0153 (airbench96: 0.012) over the peak.")
_AIRBENCH_LACKS = ("The bias of the first layer learns for 3 epochs only.", "An epoch drops the images that fill no "
                   "batch; here the number of steps is the source's.", "It computes in float16 throughout.",
                   "Pixels are normalised by CIFAR-10's own mean and deviation.",
                   "The first layer is made from the first 5,000 images; here from 5,000 spread over the set.")

RECIPES: dict[str, Recipe] = {
    "cifar10_airbench94": Recipe(
        "Jordan 2024 (https://arxiv.org/abs/2404.00498), legacy/airbench94.py of its code",
        _AIRBENCH | dict(model="airbench94", steps=476, warmup=0.23, final_rate=0.07, shift=2),
        _AIRBENCH_DIFFERS, _AIRBENCH_LACKS, reached="94.01 % of CIFAR-10 (mean of many runs)",
        run="90.59 % of CIFAR-10 as JPEG (seed 0, H200); the authors' code on these files: 90.66 (deviation 0.15, 3 "
            "runs). Before statistics and tables were compared."),
    "cifar10_airbench96": Recipe(
        "Jordan 2024 (https://arxiv.org/abs/2404.00498), legacy/airbench96.py of its code",
        _AIRBENCH | dict(model="airbench96", steps=1776, warmup=0.1, final_rate=None, shift=4, cutout=12,
                         cutout_inside=True),
        _AIRBENCH_DIFFERS, _AIRBENCH_LACKS, reached="96.03 % of CIFAR-10 (mean of many runs)"),
    "alexnet": Recipe(
        "Krizhevsky et al. 2012, sec. 2, 4 and 5 (https://papers.nips.cc/paper/4824)",
        dict(data="tfds:imagenet2012", model="alexnet_grouped", image_size=224, short_side=(256, 256), flip=True,
             epochs=90, batch_size=128, optimizer="momentum", base_learning_rate=0.02, weight_decay=5e-4, decay="all",
             schedule="step", milestones=None, warmup=0.0),
        dict(image_size="227 pixels fit the sizes of its layers, as in the authors' code.",
             milestones="The authors lowered the rate by hand, three times, when the validation error stood still.",
             crop_scale="Not used with --short-side."),
        ("Noise along the principal components of the colours.", "Crops come from the central square of 256 pixels; "
         "here from the whole image.", "Answers averaged over ten views of a test image; "
         "here over one.", "Biases: the paper does not say how fast they learn, so they learn as weights do."),
        reached="59.3 % top-1 of ImageNet (40.7 % error, Table 2), over ten views"),
    "vgg16": Recipe(
        "Simonyan and Zisserman 2015, sec. 3.1 and 4.1 (https://arxiv.org/abs/1409.1556)",
        dict(data="tfds:imagenet2012", model="vgg16", image_size=224, short_side=(256, 512), flip=True, epochs=74,
             batch_size=256, optimizer="momentum", base_learning_rate=0.01, weight_decay=5e-4, decay="all",
             schedule="step", milestones=None, warmup=0.0, std=(1 / 255,) * 3),
        dict(model="Batch norm in place of the start from a smaller network; its weights start as He et al.'s (2015).",
             milestones="The rate was lowered by hand, three times, when the validation accuracy stood still.",
             std="Batch norm follows the first convolution, so that the deviation of its input does not count.",
             crop_scale="Not used with --short-side."),
        ("A random shift of the colours.", "The network answers for whole images of several sizes; here for one "
         "central crop."), reached="74.4 % top-1 of ImageNet (25.6 % error, Table 3, sizes 256 to "
        "512)"),
    "resnet50": Recipe(
        "Goyal et al. 2017, sec. 5.1, the baseline of 256 images (https://arxiv.org/abs/1706.02677)",
        _IMAGENET | dict(model="resnet50", epochs=90, batch_size=256, batch_norm_group=32, optimizer="nesterov",
                         base_learning_rate=0.1, weight_decay=1e-4, decay="matrices", schedule="step",
                         milestones=(30 / 90, 60 / 90, 80 / 90), warmup=0.0),
        {}, ("The head starts normal with a deviation of 0.01; here as torchvision's.", _BIASES, *_CROPS,
             "Strides are in the 3x3 convolutions, as here; He et al. (2016) have them in the first 1x1."),
        reached="76.40 % top-1 of ImageNet (23.60 +- 0.12 % error, Table 1)"),
    "resnet50_a1": Recipe(
        _OF_STRIKES_BACK,
        _STRIKES_BACK | dict(epochs=600, base_learning_rate=6.25e-4, weight_decay=0.01, label_smoothing=0.1,
                             drop_path=0.05, aug_repeats=3, mixup=0.2, warmup=5 / 600),
        {}, (*_TIMM_COSINE, "timm warps by bilinear or bicubic interpolation, at random."),
        reached="80.4 % top-1 of ImageNet"),
    "resnet50_a2": Recipe(
        _OF_STRIKES_BACK,
        _STRIKES_BACK | dict(epochs=300, base_learning_rate=6.25e-4, weight_decay=0.02, drop_path=0.05, aug_repeats=3,
                             mixup=0.1, warmup=5 / 300),
        {}, _TIMM_COSINE, reached="79.8 % top-1 of ImageNet"),
    "resnet50_a3": Recipe(
        _OF_STRIKES_BACK,
        _STRIKES_BACK | dict(image_size=160, eval_size=224, epochs=100, base_learning_rate=1e-3, weight_decay=0.02,
                             mixup=0.1, warmup=5 / 100, policy_magnitude=6.0, aug_repeats=1, drop_path=None),
        {}, _TIMM_COSINE, reached="78.1 % top-1 of ImageNet"),
    "resnet50_torchvision_v2": Recipe(
        "torchvision's second weights (https://github.com/pytorch/vision/issues/3995), references/classification",
        _IMAGENET | dict(image_size=176, eval_size=224, crop=224 / 232, interpolation="bilinear", model="resnet50",
                         epochs=600, batch_size=1024, batch_norm_group=128, optimizer="momentum",
                         base_learning_rate=0.125, weight_decay=2e-5, decay="matrices", schedule="cosine",
                         warmup=5 / 600, start_rate=0.01, final_rate=None, aug_repeats=4, policy="trivial_augment",
                         erasing=0.1, erasing_mode="const", mixup=0.2, cutmix=1.0, label_smoothing=0.1,
                         ema_decay=1 - 2e-5 * 1024 * 32 / 600, ema_every=32, ema_start=5 / 600),
        {}, (*_CROPS, _BIASES, _EPOCHS), reached="80.858 % top-1 of ImageNet"),
    "densenet121": Recipe(
        "Huang et al. 2017, sec. 4.2 (https://arxiv.org/abs/1608.06993), with the crops and colours of "
        "https://github.com/facebookarchive/fb.resnet.torch",
        _IMAGENET | dict(model="densenet121", epochs=90, batch_size=256, optimizer="nesterov",
                         base_learning_rate=0.1, weight_decay=1e-4, decay="all", schedule="step", milestones=None,
                         warmup=0.0, color_jitter=(0.4, 0.4, 0.4, 0.0)),
        {}, ("Noise along the principal components of the colours.",
             "Batch norm's statistics are those of each GPU; how many there were is not stated."),
        reached="74.98 % top-1 of ImageNet (25.02 % error, Table 3)"),
    "deit_small": Recipe(
        "DeiT: Touvron et al. 2021, Table 9 (https://arxiv.org/abs/2012.12877), main.py of its code",
        _TRANSFORMER | dict(model="deit_small_patch16_224", drop_path=0.1, warmup=5 / 300, aug_repeats=3,
                            clip_norm=None),
        {}, (*_TIMM_COSINE, "Ten epochs more at the lowest rate.",
             "A running average is kept there, too; the reported accuracy is that of the last parameters.",
             "timm warps by bilinear or bicubic interpolation, at random."),
        reached="79.8 % top-1 of ImageNet"),
    "swin_tiny": Recipe(
        "Swin: Liu et al. 2021, app. A2 (https://arxiv.org/abs/2103.14030), config.py of its code",
        _TRANSFORMER | dict(model="swin_tiny_patch4_window7_224", drop_path=0.2, warmup=20 / 300, clip_norm=5.0,
                            aug_repeats=1),
        {}, ("timm warps by bilinear or bicubic interpolation, at random.",), reached="81.3 % top-1 of ImageNet"),
    "vit_small_big_vision": Recipe(
        "Beyer et al. 2022 (https://arxiv.org/abs/2205.01580), configs/vit_s16_i1k.py of big_vision",
        _IMAGENET | dict(
            model="vit_small_patch16_224",
            model_fields=("class_token=False", "pool=avg", "position=sincos2d_moco", "representation_size=384",
                          "weight_init=jax"),
            mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=None, epochs=90, batch_size=1024, optimizer="adamw",
            base_learning_rate=2.5e-4, weight_decay=0.1, decay="matrices", clip_norm=1.0, schedule="cosine",
            warmup=10_000 / 111_477, policy="rand_augment", policy_table="big_vision", policy_ops=2,
            policy_magnitude=10.0, crop_scale=(0.05, 1.0), mixup=0.2, validation=0.01),
        {}, ("The 1 % held out are the last images; here they are drawn, class by class, and choose the best "
             "checkpoint if --eval-every asks for it.",
             "Test images are resized by areas, training crops bilinear; here both are bicubic.",
             "Adam's first moments are bfloat16.", "Biases of MLPs start at a deviation of 1e-6."),
        reached="76.5 % top-1 of ImageNet"),
}
