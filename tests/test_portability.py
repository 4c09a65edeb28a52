"""The training step of every experiment lowers for accelerators that this machine does not have, at full paper size.

The steps are those of the commands themselves, stopped before the first one; shapes only, nothing is allocated.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.data.preprocessing import Preprocessing
from cvjax.models import create_model
from cvjax.train.dispatch import in_a_row
from cvjax.workflow import distillation
from cvjax.workflow.classification.goal import Classification
from cvjax.workflow.classification.model import Classifier, parse_fields
from cvjax.workflow.lowering import lower_step
from cvjax.workflow.prediction.predictor import ClassifierNetwork
from experiments.wiring.plan import prepare
from tests.experiments.written_runs import write_run

PLATFORMS = ("tpu", "cuda", "rocm")
SMALL = ("--data", "blank:999,64,10", "--image-size", "32", "--batch-size", "8")


def lower(experiment, *arguments, tmp_path):
    prepared = prepare(experiment, [*map(str, arguments), "--run-dir", str(tmp_path / "run")])
    exported = lower_step(prepared, PLATFORMS)
    assert exported.platforms == PLATFORMS
    return prepared, exported.mlir_module()


@pytest.mark.parametrize("experiment, arguments, inside", [
    ("mae_pretrain", ("paper", *SMALL, "--model", "mae_vit_tiny_patch16", "--depth", 1, "--decoder-depth", 1, "--dtype",
                      "float32"), "x32x32x3xf32>"),
    ("mae_pretrain", ("paper", *SMALL, "--model", "mae_vit_tiny_patch16", "--depth", 2, "--decoder-depth", 1, "--scan",
                      "--remat", "dots", "--accumulate", 2, "--max-skipped", 3, "--ema-decay", 0.9), "stablehlo.while"),
    ("supervised", ("deit_small", *SMALL, "--model", "vit_tiny_patch16_224", "--model-fields", "depth=1",
                    "--layer-decay", 0.75, "--clip-norm", 1), "xbf16>"),
    ("dino_pretrain", ("vit_small_patch16", *SMALL, "--model", "vit_tiny_patch16_224", "--model-fields", "depth=1",
                       "--local-size", 16, "--out-dim", 64), "x16x16x3xf32>"),
    ("simsiam_pretrain", ("resnet50", *SMALL, "--model", "resnet20", "--model-fields", "depths=(1,)", "--dim", 64),
     "8x2x32x32x3xf32>"),
    ("segment", ("--data", "scenes:40,4,32", "--crop-size", 32, 32, "--color-jitter", 0.2, 0, 0, 0,
                 "--batch-size", 8), "x32x32x11xf32>"),
    ("detect", ("--data", "scenes:40,4,32", "--canvas", 32, 48, "--color-jitter", 0.2, 0, 0.2, 0, "--batch-size", 8),
     "x32x48x3xf32>")], ids=lambda x: str(x)[:12])
def test_a_small_step_lowers(experiment, arguments, inside, tmp_path):
    _, program = lower(experiment, *arguments, tmp_path=tmp_path)
    assert inside in program


# Batches of the papers, and their image sizes, in the presets' own words.
PRESETS = [
    ("mae_pretrain", "paper"), ("dino_pretrain", "vit_small_patch16"), ("dino_pretrain", "resnet50"),
    ("simsiam_pretrain", "resnet50"), *(("supervised", name) for name in (
        "alexnet", "vgg16", "resnet50", "resnet50_a1", "resnet50_torchvision_v2", "densenet121", "deit_small",
        "swin_tiny", "vit_small_big_vision"))]


@pytest.mark.slow
@pytest.mark.parametrize("experiment, preset", PRESETS)
def test_a_papers_step_lowers_at_full_size(experiment, preset, tmp_path):
    prepared, program = lower(experiment, preset, tmp_path=tmp_path)
    batch = prepared.batch
    shape = (batch["global"] if "global" in batch else batch["image"]).shape  # views are cropped on the host
    assert shape[0] == prepared.config.batch_size >= 128 and min(shape[-3:-1]) >= 160
    assert f"tensor<{'x'.join(map(str, shape))}xui8>" in program


@pytest.mark.slow
@pytest.mark.parametrize("preset, size", [("voc_fcn8s", "1x500x500"), ("camvid_fcn8s", "1x360x480"),
                                          ("fcn_resnet50", "32x480x480"), ("camvid", "8x240x320")])
def test_a_papers_segmentation_step_lowers_at_full_size(preset, size, tmp_path):
    _, program = lower("segment", preset, "--data", "scenes:40,2,32", tmp_path=tmp_path)
    assert f"tensor<{size}x3xui8>" in program and f"tensor<{size}x11xf32>" in program


@pytest.mark.slow
@pytest.mark.parametrize("preset, size", [("voc_yolov1", "64x448x448"), ("voc_fast_yolov1", "64x448x448"),
                                          ("bccd_yolov1", "8x240x320"), ("voc_fast_rcnn_vgg16", "2x1000x1000"),
                                          ("voc_faster_rcnn_vgg16", "2x1000x1000"), ("bccd_faster_rcnn", "8x240x320"),
                                          ("coco_faster_rcnn_resnet50_fpn", "16x1344x1344")])
def test_a_papers_detection_step_lowers_at_full_size(preset, size, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # for regions of selective search
    _, program = lower("detect", preset, "--data", "scenes:80,2,32", tmp_path=tmp_path)
    at_once = size.replace("2x", "1x", 1) if preset == "voc_faster_rcnn_vgg16" else size  # one image after the other
    assert f"tensor<{size}x3xui8>" in program and f"tensor<{at_once}x3xf32>" in program


@pytest.mark.slow
def test_the_papers_mae_step_lowers_at_full_size(tmp_path):
    """One of them in the default suite too."""
    test_a_papers_step_lowers_at_full_size("mae_pretrain", "paper", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["rand_augment", "trivial_augment"])
def test_a_step_with_every_augmentation_lowers(policy, tmp_path):
    _, program = lower("supervised", "resnet50", "--batch-size", 8, "--batch-norm-group", 4, "--shift", 4,
                       "--policy", policy, "--policy-magnitude-std", 0.5, "--color-jitter", 0.4, 0.4, 0.4, 0.1,
                       "--grayscale", 0.1, "--noise", 2.0, "--erasing", 0.25, "--erasing-mode", "pixel",
                       "--cutout", 16, "--mixup", 0.2, "--cutmix", 1.0, "--criterion", "bce", tmp_path=tmp_path)
    assert "tensor<8x224x224x3xf32>" in program, "augmented on the device"


@pytest.mark.slow
def test_fine_tuning_and_probing_of_a_checkpoint_lower(process, tmp_path):
    tiny = ("--steps", 2, "--width", 16, "--depth", 1, "--heads", 2, "--decoder-depth", 1)
    assert process("mae_pretrain", "--run-dir", tmp_path / "mae", *tiny).status == 0
    for experiment, form in (("finetune", ()), ("linear_probe", ("--form", "mae"))):
        lower(experiment, *form, "--checkpoint", tmp_path / "mae", tmp_path=tmp_path / experiment)


def test_distillation_lowers(tmp_path):
    teacher = write_run(tmp_path / "teacher", names=tuple("0123456789"))
    _, program = lower("distill", "--teacher", teacher, "--model", "linear", "--model-fields", "--batch-size", 8,
                       tmp_path=tmp_path)
    assert program.count("tensor<64x10xf32>") > 1


@pytest.mark.slow
def test_a_papers_distillation_lowers_at_full_size(tmp_path, monkeypatch):
    """Of its published teacher, the shapes."""
    def shapes_of(name, weights, *, fields):
        model = create_model(name, **parse_fields(fields))
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
        goal = Classification(tuple(map(str, range(1000))))
        return ClassifierNetwork([Classifier(model, variables, 224, 3, Preprocessing.of(3), goal)]), None

    monkeypatch.setattr(distillation, "published_network", shapes_of)
    prepared, program = lower("distill", "deit_small_distilled", tmp_path=tmp_path)
    learnt, frozen = (sum(leaf.size for leaf in jax.tree.leaves(tree))
                      for tree in (prepared.state.params, prepared.state.constants["teacher"]["params"]))
    assert (learnt, frozen) == (22_436_432, 60_192_808)
    assert "tensor<1024x224x224x3xui8>" in program and "tensor<1024x198x384xbf16>" in program
    assert "tensor<1024x7x7x2048xbf16>" in program, "the teacher sees the student's pictures"


def test_several_airbench_steps_in_one_program_lower(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "small.npz", train_images=rng.integers(0, 256, (60, 32, 32, 3), np.uint8),
             train_labels=np.arange(60) % 10)
    prepared = prepare("supervised", ["cifar10_airbench94", "--data", f"npz:{tmp_path / 'small.npz'}", "--batch-size",
                                      "16", "--no-data-cache", "--model-fields", "widths=(8,8,8)"])
    several = {name: jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype) for name, leaf in prepared.batch.items()}
    together = dataclasses.replace(prepared, step=in_a_row(prepared.step), batch=several)
    assert "stablehlo.while" in lower_step(together, PLATFORMS).mlir_module()
