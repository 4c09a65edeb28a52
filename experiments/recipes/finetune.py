"""The source of the recipe of experiments.finetune."""


from experiments.recipes import Recipe

RECIPES: dict[str, Recipe] = {
    "paper": Recipe(
        "MAE: He et al. 2022, app. A.1 and Table 9 (https://arxiv.org/abs/2111.06377), FINETUNE.md and "
        "main_finetune.py of its code, ViT-B",
        dict(data="tfds:imagenet2012", pool="avg", epochs=100, batch_size=1024, optimizer="adamw",
             base_learning_rate=5e-4, final_rate=1e-6 / 2e-3, schedule="cosine", warmup=5 / 100, weight_decay=0.05,
             decay="matrices", layer_decay=0.65, drop_path=0.1, label_smoothing=0.1, mixup=0.8, cutmix=1.0,
             policy="rand_augment", policy_table="timm", policy_ops=2, policy_magnitude=9.0, policy_magnitude_std=0.5,
             policy_probability=0.5, erasing=0.25, erasing_mode="pixel", color_jitter=(0.0, 0.0, 0.0, 0.0),
             crop_scale=(0.08, 1.0), flip=True, clip_norm=None),
        dict(checkpoint="The run of experiments.mae_pretrain's recipe; the authors' weights are those of 1600 epochs."),
        ("timm warps by bilinear or bicubic interpolation, at random.",),
        reached="83.6 % top-1 of ImageNet after 1600 epochs of pre-training (deviation 0.08 of 4 runs)"),
}
