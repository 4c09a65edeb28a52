"""The names that the authors of MAE use: timm's for the encoder, `decoder_...` for the rest."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.interop.families.registry import register
from cvjax.interop.families.vit import TRANSFORMER, stored_positions
from cvjax.interop.naming import Family, Naming, model_images
from cvjax.models.mae import MaskedAutoencoder


def _inputs(model: MaskedAutoencoder) -> tuple[jax.ShapeDtypeStruct, ...]:
    return *model_images(model), jax.ShapeDtypeStruct((1, math.prod(model.grid)), jnp.float32)


def _constants(model: MaskedAutoencoder) -> dict[str, np.ndarray]:
    return {"pos_embed": stored_positions(model.width, model.grid),
            "decoder_pos_embed": stored_positions(model.decoder_width, model.grid)}


MAE = Family(
    namings={"official": Naming(TRANSFORMER, ((r"encoder/", ""), (r"decoder/(?=mask_token)", ""),
                                              (r"decoder/", "decoder_")), _constants)},
    inputs=_inputs,
)

register(MaskedAutoencoder, MAE)
