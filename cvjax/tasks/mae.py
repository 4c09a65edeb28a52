"""Masked-autoencoder pre-training (He et al. 2022, https://arxiv.org/abs/2111.06377)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.losses.mae import masked_reconstruction_loss, pixel_target
from cvjax.models.mae import MAEOutput, MaskedAutoencoder
from cvjax.tasks.task import Aux, Batch, Metrics, Task, example_keys, masked_sum, outputs_of, total

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def draw_noise(keys: jax.Array, length: int) -> jax.Array:
    """Uniform noise in [0, 1), float32 `(B, length)`, from one key per example `(B,)`."""
    return jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)


def mae_task(model: MaskedAutoencoder, *, augment: Augment, preprocess: Callable[[jax.Array], jax.Array],
             normalize_pixels: bool) -> Task:
    """The model learns to predict the pixels of masked patches.

    Args:
        augment: key and image uint8 `(H, W, C)` to one training image, float `(H', W', C)`, normalised.
        preprocess: images uint8 `(B, H, W, C)` to float `(B, H, W, C)`, without randomness, for evaluation.
        normalize_pixels: predict each patch normalised by its own mean and variance.
    """
    length = model.grid[0] * model.grid[1]

    def forward(params: Any, images: jax.Array, noise: jax.Array, *, train: bool) -> tuple[jax.Array, MAEOutput]:
        output: MAEOutput = outputs_of(model, {"params": params}, images, noise, train=train)
        target = pixel_target(images, model.patch_size, normalize=normalize_pixels)
        return masked_reconstruction_loss(output.prediction, target, output.mask), output

    def init(rng: jax.Array, batch: Batch) -> Any:
        images = preprocess(batch["image"])
        return model.init(rng, images, jnp.zeros((images.shape[0], length)))

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        keys = jax.vmap(jax.random.split)(example_keys(rng, batch))  # (B, 2)
        images = jax.vmap(augment)(keys[:, 0], batch["image"])
        losses, _ = forward(params, images, draw_noise(keys[:, 1], length), train=True)
        return losses.mean(), Aux({"loss": total(losses)}, model_state)

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        """The loss of whole images. A record's mask is the same in every evaluation."""
        noise = draw_noise(example_keys(jax.random.key(0), batch), length)
        losses, _ = forward(variables["params"], preprocess(batch["image"]), noise, train=False)
        return {"loss": masked_sum(losses, batch["mask"])}

    return Task(init, loss, evaluate)
