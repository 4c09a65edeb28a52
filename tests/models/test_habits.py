"""What a model says to those who call it as they call PyTorch's."""

import jax
import jax.numpy as jnp
import pytest
from flax.errors import InvalidRngError, ModifyScopeVariableError

from cvjax.models import create_model
from cvjax.models.summary import summarize, table

IMAGES = jnp.zeros((2, 32, 32, 3))


def variables_of(model):
    return jax.jit(model.init)(jax.random.key(0), IMAGES)


def test_images_in_pytorchs_order_are_told_the_other():
    model = create_model("resnet20", num_classes=10)
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 32\) looks like PyTorch's order .*transpose\(0, 2, 3, 1\)"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES.transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match="the model takes 3(\n|$)"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES[..., :1])


@pytest.mark.slow
@pytest.mark.parametrize("name, fields, error, said", [
    ("resnet20", {}, ModifyScopeVariableError, """train=True, mutable=['batch_stats'], rngs={"dropout": key})"""),
    ("vit_tiny_patch16_224", {"image_size": 32, "depth": 2, "drop_path": 0.5}, InvalidRngError,
     """train=True, rngs={"dropout": key})""")])
def test_a_call_in_training_mode_says_what_to_write_and_that_works(name, fields, error, said):
    model = create_model(name, num_classes=10, **fields)
    variables = variables_of(model)
    with pytest.raises(error) as caught:
        model.apply(variables, IMAGES, train=True)
    (note,) = (note for note in caught.value.__notes__ if "training mode" in note)
    assert said in note and "train=False" in note
    call = note.partition(": ")[2].partition("; it")[0]
    found = eval(call, {"model": model, "variables": variables, "images": IMAGES, "key": jax.random.key(1)})
    assert (found[0] if isinstance(found, tuple) else found).shape == (2, 10)


def test_a_models_summary_is_the_table_for_its_own_size():
    model = create_model("resnet20", num_classes=10)
    assert model.summary() == table(summarize(model, (32, 32, 3))) and "layer1" in model.summary()
