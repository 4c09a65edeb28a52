"""What MAE's and DINO's authors state of their linear probes."""

from experiments.recipes import Recipe

RECIPES: dict[str, Recipe] = {
    "mae": Recipe(
        source="https://github.com/facebookresearch/mae, FINETUNE.md and main_linprobe.py; "
               "https://arxiv.org/abs/2111.06377, table 10",
        states=dict(data="tfds:imagenet2012", form="mae", batch_size=16384, epochs=90, learning_rates=(0.1,),
                    crop_scale=(0.08, 1.0), flip=True, pool="token", probe_blocks=1),
        differs=dict(pool="It is the encoder's by default, and for published weights the class token.",
                     probe_blocks="It follows from --form mae: the last block."),
        lacks=("They report the best epoch on the test set; here it is the last.",
               "Batch norm sees each GPU's 512 images there, here the whole batch.",
               "Their crop's box is made to fit; here one of ten that fits is taken."),
        reached="68.0 % of ImageNet's validation images, ViT-B of 1600 epochs"),
    "dino": Recipe(
        source="https://github.com/facebookresearch/dino, README and eval_linear.py",
        states=dict(data="tfds:imagenet2012", form="dino", batch_size=1024, epochs=100, learning_rates=(0.001,),
                    crop_scale=(0.08, 1.0), flip=True, probe_blocks=4),
        differs=dict(probe_blocks="It follows from --form dino: 4 for ViT-S, 1 beside the pooled patches for ViT-B."),
        lacks=("They report the best epoch on the test set; here it is the last.",
               "Their rate changes with each epoch, here with each step.",
               "Their crops are resized bilinearly, here bicubically."),
        reached="77.0 % of ImageNet's validation images, ViT-S/16 of 800 epochs"),
}
