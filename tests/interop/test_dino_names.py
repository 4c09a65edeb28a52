"""DINO's full checkpoints, as the authors' script writes them: which part is read, and what is refused."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.interop import load_weights, read_state_dict, save_weights, to_state_dict
from cvjax.models import create_model
from cvjax.models.dino import DINO, DINOHead

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "dino_checkpoint.pth"  # torch.save's own, by make_goldens.py
HEAD = dict(out_dim=6, layers=2, hidden=8, bottleneck=4, batch_norm=True)


def vit(**fields: Any) -> nn.Module:
    return create_model("vit_tiny_patch16_224", **dict(image_size=8, patch_size=4, width=8, depth=1, heads=2,
                                                       num_classes=0) | fields)


def dino(backbone: nn.Module | None = None, **fields: Any) -> DINO:
    return DINO(backbone or vit(), DINOHead(**HEAD | fields))


def variables_of(model: DINO) -> Any:
    """Random numbers in the place of every parameter and statistic."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), [jnp.zeros((1, 1, 8, 8, 3))])
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes)


def assert_equal(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    assert all(map(np.array_equal, jax.tree.leaves(left), jax.tree.leaves(right)))


def said_of(part: str | None) -> set[str]:
    return {"module. stands before all names and is left out"} if part == "student" else set()


@pytest.mark.parametrize("part", [None, "teacher", "student"])
def test_a_part_of_a_checkpoint(part: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """The teacher by default; the student's names begin with `module.` in the file."""
    weights = read_state_dict(CHECKPOINT, part)
    loaded = load_weights(dino(), CHECKPOINT, part=part)
    assert {record.getMessage() for record in caplog.records} == said_of(part)
    mlp, layer = loaded["params"]["head"]["mlp"], loaded["params"]["head"]["last_layer"]
    np.testing.assert_array_equal(mlp["0"]["kernel"], weights["head.mlp.0.weight"].T)
    np.testing.assert_array_equal(mlp["1"]["scale"], weights["head.mlp.1.weight"])
    np.testing.assert_array_equal(mlp["3"]["bias"], weights["head.mlp.3.bias"])
    np.testing.assert_array_equal(layer["weight_v"], weights["head.last_layer.weight_v"].T)
    assert set(layer) == {"weight_v"}
    np.testing.assert_array_equal(loaded["batch_stats"]["head"]["mlp"]["1"]["var"], weights["head.mlp.1.running_var"])
    np.testing.assert_array_equal(loaded["params"]["backbone"]["pos_embed"], weights["backbone.pos_embed"])
    np.testing.assert_array_equal(loaded["params"]["backbone"]["blocks"]["0"]["attn"]["qkv"]["kernel"],
                                  weights["backbone.blocks.0.attn.qkv.weight"].T)
    other = read_state_dict(CHECKPOINT, {"student": "teacher"}.get(part, "student"))
    assert not np.array_equal(weights["head.mlp.0.weight"], other["head.mlp.0.weight"])


@pytest.mark.parametrize("part", [None, "student"])
def test_a_bare_backbone_takes_its_own_part(part: str | None, caplog: pytest.LogCaptureFixture) -> None:
    whole = load_weights(dino(), CHECKPOINT, part=part)
    assert_equal(load_weights(vit(), CHECKPOINT, part=part), {"params": whole["params"]["backbone"]})
    assert {record.getMessage() for record in caplog.records} == said_of(part)
    classifier = load_weights(vit(num_classes=3), CHECKPOINT, part=part)["params"]
    assert classifier.pop("head")["kernel"].shape == (8, 3)
    assert_equal(classifier, whole["params"]["backbone"])
    assert "fresh: head.bias, head.weight" in caplog.records[-1].message


@pytest.mark.parametrize("model", [
    dino(norm_last_layer=False), dino(batch_norm=False, layers=3),
    dino(create_model("resnet20", depths=(1, 1), width=4, num_classes=0)),
    dino(create_model("resnet9", channels=(2, 3, 4, 5), image_size=8, num_classes=0)),
    dino(create_model("resnet18", depths=(1, 1), width=4, num_classes=0), norm_last_layer=False),
], ids=["learnt_lengths", "plain_head", "cifar_resnet", "resnet9", "resnet"])
def test_out_and_in_is_bit_exact(model: DINO, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    variables = variables_of(model)
    save_weights(variables, model, tmp_path / "w.safetensors")
    assert_equal(load_weights(model, tmp_path / "w.safetensors"), variables)
    backbone = load_weights(model.backbone, tmp_path / "w.safetensors")
    assert_equal(backbone, {kind: tree["backbone"] for kind, tree in variables.items() if "backbone" in tree})
    assert not caplog.records


def test_what_is_written_has_all_names_that_the_authors_file_has() -> None:
    theirs = {name: array.shape for name, array in read_state_dict(CHECKPOINT).items()
              if not name.endswith("num_batches_tracked")}
    ours = to_state_dict(load_weights(dino(), CHECKPOINT), dino())
    assert {name: array.shape for name, array in ours.items()} == theirs
    np.testing.assert_array_equal(ours["head.last_layer.weight_g"], np.ones((6, 1)))
    learnt = dino(norm_last_layer=False)
    variables = variables_of(learnt)
    np.testing.assert_array_equal(to_state_dict(variables, learnt)["head.last_layer.weight_g"],
                                  variables["params"]["head"]["last_layer"]["weight_g"].T)


def refused(model: nn.Module, weights: Any, **options: Any) -> str:
    with pytest.raises(ValueError) as error:
        load_weights(model, weights, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_head_is_refused() -> None:
    start = "the weights do not fit DINO: "
    assert refused(dino(out_dim=5), CHECKPOINT) == (
        f"{start}of another shape: head.last_layer.weight_v (6, 4) (the model has (5, 4)), "
        "head.last_layer.weight_g (6, 1) (the model has (5, 1))")
    message = refused(dino(layers=3), CHECKPOINT)
    assert message.startswith(f"{start}missing: ") and "head.mlp.6.weight" in message
    assert "head.mlp.3.weight (4, 8) (the model has (8, 8))" in message
    message = refused(dino(batch_norm=False), CHECKPOINT)
    assert "missing: head.mlp.2.bias, head.mlp.2.weight; unexpected: head.mlp.1.weight" in message


def test_learnt_lengths_are_not_dropped_in_silence() -> None:
    lengths = read_state_dict(CHECKPOINT) | {"head.last_layer.weight_g": np.full((6, 1), 1.5, np.float32)}
    assert refused(dino(), lengths) == (
        "the weights do not fit DINO: of other values than the model computes: head.last_layer.weight_g")
    loaded = load_weights(dino(norm_last_layer=False), lengths)
    np.testing.assert_array_equal(loaded["params"]["head"]["last_layer"]["weight_g"], np.full((1, 6), 1.5))
    fixed = {name: array for name, array in lengths.items() if not name.endswith("weight_g")}
    assert refused(dino(norm_last_layer=False), fixed).endswith("missing: head.last_layer.weight_g")
    assert set(load_weights(dino(), fixed)["params"]["head"]["last_layer"]) == {"weight_v"}


def test_other_files_and_parts_are_refused() -> None:
    message = refused(dino(), CHECKPOINT, part="pupil")
    assert message.endswith("it has no part 'pupil'; it has student, teacher, optimizer, epoch, args, dino_loss")
    assert "epoch" in refused(dino(), CHECKPOINT, part="epoch")
    backbone = to_state_dict(load_weights(vit(), CHECKPOINT), vit())
    message = refused(dino(), backbone)
    assert "missing: " in message and "backbone.cls_token" in message and "unexpected: " in message
    assert "missing: " in refused(vit(depth=2), CHECKPOINT)
