"""Fine-tuning before its first step: what becomes of positions, and what learns beside low-rank updates."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.errors import ConfigError
from cvjax.models import create_model
from cvjax.ops.position import sincos_2d
from cvjax.workflow.prepared import Prepared
from experiments.wiring.plan import prepare
from tests.experiments.written_runs import write_model_run


def prepared(folder: Path, *arguments: Any, **fields: Any) -> Prepared[Any]:
    """The fine-tuning of a ViT with these fields on the digits; its encoder's parameters are all 1."""
    model = create_model("vit_tiny_patch16_224", patch_size=4, width=16, depth=1, heads=2, image_size=8, in_channels=1,
                         num_classes=10, **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    run = write_model_run(folder, model, jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes),
                          names=tuple("0123456789"))
    return prepare("finetune", ["--checkpoint", str(run), "--batch-size", "8", "--steps", "4", *arguments])


@pytest.mark.parametrize("position", ["sincos2d", "sincos2d_moco"])
def test_fixed_positions_are_learnt_from_their_own_values_on(position: Any, tmp_path: Path) -> None:
    run = prepared(tmp_path / "run", position=position)
    assert run.model.position == "learned"
    found = jax.jit(lambda: run.initialize(run.pretrained, None).params["pos_embed"])()
    fixed = sincos_2d(16, (2, 2), moco=position == "sincos2d_moco")
    np.testing.assert_array_equal(found, np.concatenate([np.zeros((1, 16), np.float32), fixed])[None])


def test_rotary_positions_stay(tmp_path: Path) -> None:
    """The blocks have learnt with them, and with nothing added to the patches."""
    run = prepared(tmp_path / "run", position="rotary")
    assert run.model.position == "rotary" and "pos_embed" not in run.state.params


@pytest.mark.parametrize("pool, norm", [("avg", "fc_norm"), ("token", "norm")])
def test_beside_low_rank_updates_what_the_encoder_lacks_learns(pool: Any, norm: str, tmp_path: Path) -> None:
    """The last norm of the class token is not that of an average; positions start from those of the encoder."""
    other = "token" if pool == "avg" else "avg"
    run = prepared(tmp_path / "run", "--pool", pool, "--lora", "2", pool=other, position="sincos2d")
    assert run.state.params.keys() == {"blocks", "head", norm}
    assert run.state.model_state["frozen"]["params"].keys() == {"blocks", "cls_token", "patch_embed", "pos_embed"}
    run = prepared(tmp_path / "same", "--pool", pool, "--lora", "2", pool=pool)
    assert run.state.params.keys() == {"blocks", "head"}


def test_two_heads_that_no_average_has_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="distilled with pool 'avg'"):
        prepared(tmp_path / "run", "--lora", "2", distilled=True)
