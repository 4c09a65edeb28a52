"""Attention against sums in float64, and the programs of other platforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.ops.attention import attend

SHAPE = (2, 5, 3, 7)  # batch, tokens, heads, width


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def with_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this machine has NVIDIA's library and card."""
    from types import SimpleNamespace

    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "cuda_versions", SimpleNamespace(cudnn_get_version=lambda: 91500))
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda capability: True)


def by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(q.shape[:3]):
        scores = k[b, :, h] @ q[b, t, h] / np.sqrt(q.shape[-1])
        weights = np.exp(scores if bias is None else scores + bias[b % len(bias), h, t])
        out[b, t, h] = weights @ v[b, :, h] / weights.sum()
    return out


@pytest.mark.parametrize("biases", [0, 1, 2], ids=["no bias", "one bias", "a bias each"])
def test_attention_is_the_weighted_mean_and_has_its_gradients(biases):
    parts = [draw(*SHAPE), draw(*SHAPE) + 0.1, draw(*SHAPE) - 0.2]
    bias = draw(biases, 3, 5, 5) if biases else None
    arrays = [jnp.asarray(x, jnp.float32) for x in (parts if bias is None else [*parts, bias])]
    weights = jnp.asarray(draw(*SHAPE[::-1]).reshape(SHAPE), jnp.float32)

    def numbers(function):
        return jax.jit(jax.grad(lambda *a: (function(*a) * weights).sum(), tuple(range(len(arrays)))))(*arrays)

    # Sums of at most 7 numbers around 1, then softmax: some roundings of 6e-8.
    np.testing.assert_allclose(attend(*arrays), by_hand(*parts, bias), rtol=0, atol=2e-6)
    ours, theirs = numbers(attend), numbers(jax.nn.dot_product_attention)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max() + 1e-5)


def test_bfloat16_stays_and_its_softmax_is_float32():
    """Scores of 256 and 257: the same number in bfloat16, e to 1 apart in float32."""
    q, k, v = (jnp.asarray(x, jnp.bfloat16).reshape(1, 2, 1, 4) for x in (
        [[16.0] * 4] * 2, [[8.0] * 4, [8.0, 8.0, 8.0, 8.125]], [[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    out = attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out[0, 0, 0, :2].astype(np.float32), [0.2689, 0.7311], rtol=2**-7)


def test_products_stay_bfloat16_in_the_gradients_too():
    """One of the scores, one of the result, four for the gradients: of bfloat16, which accelerators take quickly."""
    x = jnp.ones(SHAPE, jnp.bfloat16)
    program = jax.jit(jax.grad(lambda *a: attend(*a).astype(jnp.float32).sum(), (0, 1, 2))).lower(x, x, x).as_text()
    products = [line.split(" : ")[1] for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 6
    assert all(line.split("->")[0].count("bf16") == 2 for line in products), products


@pytest.mark.parametrize("platforms, fused", [(("cuda",), 1), (("tpu",), 0)])
def test_by_default_a_gpu_in_bfloat16_has_the_fused_kernel(monkeypatch, platforms, fused):
    """On a machine that pretends to have the library, and only in programs lowered for a GPU."""
    with_cudnn(monkeypatch)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def kernels(dtype, **options):
        x = jnp.ones((2, 5, 3, 8), dtype)
        return jax.jit(lambda *a: attend(*a, **options)).trace(x, x, x).lower(
            lowering_platforms=platforms).as_text().count("__cudnn$fmhaSoftmax(")

    assert kernels(jnp.bfloat16) == fused
    assert kernels(jnp.float32) == kernels(jnp.bfloat16, implementation="xla") == 0
    assert kernels(jnp.bfloat16, bias=jnp.zeros((3, 5, 5))) == 0


def test_cudnn_is_refused_where_it_cannot_be():
    x = jnp.zeros((1, 4, 2, 8))
    with pytest.raises(ValueError, match="is for bfloat16 or float16 and no bias, not for float32"):
        attend(x, x, x, implementation="cudnn")
    with pytest.raises(ValueError, match="attention by cudnn: "):  # this machine has no such library
        attend(*(x.astype(jnp.bfloat16),) * 3, implementation="cudnn")


def test_cudnn_lowers_to_its_fused_kernels_forward_and_backward(monkeypatch):
    """On a machine that had the library; the kernels themselves need the card."""
    from cvjax.models import create_model

    with_cudnn(monkeypatch)
    model = create_model("vit_tiny_patch16_224", depth=1, attention="cudnn", dtype=jnp.bfloat16)  # 197 tokens: odd
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(variables, images):
        return model.apply(variables, images, train=True).sum()

    program = jax.jit(jax.grad(loss)).trace(variables, images).lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("__cudnn$fmhaSoftmax(") == program.count("__cudnn$fmhaSoftmaxBackward(") == 1


def test_a_hessian_times_a_vector():
    """Forward over reverse mode, against finite differences of the gradient: their error is about 1e-4 squared."""
    q, k, v, along = (jnp.asarray(draw(*SHAPE[:i], SHAPE[i] + i, *SHAPE[i + 1:])[:2, :5, :3, :7], jnp.float32)
                      for i in range(4))
    gradient = jax.jit(jax.grad(lambda q: jnp.sin(attend(q, k, v)).sum()))
    product = jax.jvp(gradient, (q,), (along,))[1]
    step = 1e-2  # the second derivative of the difference is a few hundredths of it; rounding is 1e-7 / 1e-2
    difference = (gradient(q + step * along) - gradient(q - step * along)) / (2 * step)
    np.testing.assert_allclose(product, difference, rtol=0, atol=1e-3 * np.abs(difference).max())


def test_an_unknown_implementation_is_refused():
    q = jnp.zeros(SHAPE)
    with pytest.raises(ValueError, match="^implementation 'cuDNN': it must be one of auto, xla, cudnn$"):
        attend(q, q, q, implementation="cuDNN")
