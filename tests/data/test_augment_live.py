"""The policies' tables and operations against torchvision and timm themselves: `pytest -m parity` where torch is."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cvjax.data import augment
from cvjax.data.augment import policies
from tests.data.augmenting import photo, quick

pytestmark = pytest.mark.parity

OURS = {"ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x", "TranslateY": "translate_y",
        "Rotate": "rotate", "Brightness": "brightness", "Color": "saturation", "Contrast": "contrast",
        "Sharpness": "sharpness", "Posterize": "posterize", "Solarize": "solarize", "AutoContrast": "autocontrast",
        "Equalize": "equalize", "Invert": "invert", "SolarizeAdd": "solarize_add", "Identity": "identity"}
ENHANCEMENTS = ("Brightness", "Color", "Contrast", "Sharpness")


@pytest.fixture(scope="module")
def torchvision():
    pytest.importorskip("torch")
    from tests.parity import torchvision_operators  # noqa: F401  before torchvision

    return pytest.importorskip("torchvision")


@pytest.fixture(scope="module")
def timm_ops(torchvision):
    return pytest.importorskip("timm").data.auto_augment


@pytest.mark.parametrize("policy", ["RandAugment", "TrivialAugmentWide"])
def test_all_bins_are_torchvisions(policy, torchvision):
    from torchvision.transforms import autoaugment

    height, width = 224, 331
    size = ((height, width),) if policy == "RandAugment" else ()
    theirs = getattr(autoaugment, policy)()._augmentation_space(31, *size)
    values = policies._torchvision if policy == "RandAugment" else policies._trivial_augment_wide
    table = quick(lambda magnitude, sign: values(magnitude, sign, height, width))
    for magnitude in range(31):
        for sign in (1, -1):
            ours = table(magnitude, jnp.float32(sign))
            assert set(ours) == {OURS[name] for name in theirs}
            for name, (magnitudes, signed) in theirs.items():
                expected = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
                expected *= sign if signed else 1
                if name in ENHANCEMENTS:
                    expected += 1
                if name.startswith("Translate"):
                    expected = int(expected + sign * 1e-4)  # torch's 16 pixels are 15.999999, and become 15
                value = float(ours[OURS[name]])
                if name == "Solarize":  # levels are whole: what counts is the first that is inverted
                    value, expected = np.ceil(value), np.ceil(expected - 1e-4)
                assert value == pytest.approx(expected, abs=1e-4), (name, magnitude)


def test_all_magnitudes_are_timms(timm_ops):
    table = quick(lambda magnitude, sign: policies._timm(magnitude, sign, 224, 331))
    for magnitude in np.arange(0, 10.5, 0.5):
        signs = [table(float(magnitude), jnp.float32(sign)) for sign in (1, -1)]
        assert len(signs[0]) == len(timm_ops._RAND_INCREASING_TRANSFORMS)
        for name in timm_ops._RAND_INCREASING_TRANSFORMS:
            level = timm_ops.LEVEL_TO_ARG[name]
            expected = {level(magnitude, {})[0] for _ in range(30)} if level else {0}  # both signs, drawn
            if "Translate" in name:
                expected = {e * (331 if "X" in name else 224) for e in expected}
            ours = {float(sign[OURS[name.removesuffix("Rel").removesuffix("Increasing")]]) for sign in signs}
            np.testing.assert_allclose(sorted(ours), sorted(expected), atol=1e-3, err_msg=f"{name} {magnitude}")


@pytest.mark.parametrize("sign", [1, -1])
def test_every_operation_is_torchvisions(sign, torchvision):
    from torchvision.transforms.autoaugment import InterpolationMode, RandAugment, _apply_op

    names = list(policies._torchvision(9.0, 1.0, 60, 80))
    theirs = {ours: name for name, ours in OURS.items()}
    space = RandAugment()._augmentation_space(31, (60, 80))
    ours = policies._torchvision(jnp.float32(21), sign, 60, 80)
    apply = quick(lambda index, argument: policies.apply_operation(jnp.asarray(photo()), names, index, argument))
    for index, name in enumerate(names):
        magnitudes, signed = space[theirs[name]]
        magnitude = float(magnitudes[21]) * (sign if signed else 1) if magnitudes.ndim else 0.0
        picture = Image.fromarray(photo())
        expected = np.asarray(_apply_op(picture, theirs[name], magnitude, InterpolationMode.NEAREST, [0]))
        apart = np.abs(np.asarray(apply(index, float(ours[name])), int) - expected).max(-1)
        assert (apart > 1).mean() < (0.01 if index < 5 else 1e-9), name


@pytest.mark.parametrize("shift", [-0.4, 0.13])
def test_hue_is_that_of_tensors_in_torchvision(shift, torchvision):
    import torch
    from torchvision.transforms import functional

    theirs = functional.adjust_hue(torch.from_numpy(photo().copy()).permute(2, 0, 1), shift).permute(1, 2, 0).numpy()
    ours = np.asarray(quick(augment.hue)(jnp.asarray(photo()), shift), int)
    assert np.abs(ours - theirs).max() <= 1  # they cut values, scaled up by 255.999 / 255, where here is rounded
