"""What DeiT's authors state of distillation: https://arxiv.org/abs/2012.12877, https://github.com/facebookresearch/deit."""

from experiments.recipes import Recipe
from experiments.recipes.supervised import RECIPES as SUPERVISED

_DEIT = SUPERVISED["deit_small"]

RECIPES: dict[str, Recipe] = {
    "deit_small_distilled": Recipe(
        source="DeiT: Touvron et al. 2021, Table 9 and sec. 4 (https://arxiv.org/abs/2012.12877), main.py and "
               "losses.py of its code",
        states={**_DEIT.states, "model": "deit_small_distilled_patch16_224", "method": "token", "hard_weight": 0.5,
                "teacher": "regnety_160"},
        differs=dict(
            teacher="RegNetY-16GF is no model here; timm's ResNet-152 stands in for it. The authors' teacher learnt "
                    "with the student's augmentation.",
            teacher_fields="The student's pictures as they are; by default the ResNet would see them at the size that "
                           "its weights are judged on."),
        lacks=_DEIT.lacks, reached="81.2 % top-1 of ImageNet"),
}
