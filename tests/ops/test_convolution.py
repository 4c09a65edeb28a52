"""A CPU's convolutions: sums by hand, other platforms' programs, eight devices, all derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.ops import cpu_convolution, xla_convolution
from cvjax.ops.convolution import conv2d
from cvjax.train.mesh import MeshEngine


@pytest.fixture
def small(monkeypatch):
    """Small maps are computed like large ones, this many pixels at a time."""
    def choose(pixels: float) -> None:
        monkeypatch.setattr(cpu_convolution, "WORTHWHILE", 0)
        monkeypatch.setattr(cpu_convolution, "PIXELS", pixels)
        monkeypatch.setattr(cpu_convolution, "WINDOW_BYTES", 1)

    return choose


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def by_hand(x: np.ndarray, g: np.ndarray, size: tuple[int, int], strides: int, padding: tuple[int, int],
            dilation: int) -> np.ndarray:
    """One tap after the other, in float64."""
    x = np.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))
    kernel = np.zeros((*size, x.shape[-1], g.shape[-1]))
    for i in range(size[0]):
        for j in range(size[1]):
            seen = x[:, i * dilation:, j * dilation:][:, ::strides, ::strides][:, :g.shape[1], :g.shape[2]]
            kernel[i, j] = np.einsum("bhwc,bhwo->co", seen, g)
    return kernel


def plain(x: jax.Array, kernel: jax.Array, strides: int, padding: tuple[int, int], dilation: int) -> jax.Array:
    return xla_convolution.convolve(x, kernel, strides=strides, padding=padding, dilation=dilation)


CASES = {  # batch, height, width, channels, features, kernel, strides, padding, dilation
    "1x1": (3, 8, 7, 4, 6, (1, 1), 1, (0, 0), 1),
    "1x1 to fewer": (3, 8, 7, 6, 4, (1, 1), 1, (0, 0), 1),
    "1x1 strided": (3, 9, 8, 4, 6, (1, 1), 2, (0, 0), 1),
    "1x1 padded": (4, 6, 6, 3, 2, (1, 1), 1, (1, 1), 1),
    "3x3": (6, 12, 10, 4, 6, (3, 3), 1, (1, 1), 1),
    "3x3 to many": (4, 6, 6, 2, 20, (3, 3), 1, (1, 1), 1),
    "3x3 strided, odd": (5, 13, 11, 4, 6, (3, 3), 2, (1, 1), 1),
    "3x3 dilated": (4, 12, 12, 4, 3, (3, 3), 1, (2, 2), 2),
    "3x3 strided and dilated": (4, 12, 12, 4, 3, (3, 3), 2, (2, 2), 2),
    "3x3 padded by more than it reaches": (3, 6, 6, 4, 6, (3, 3), 1, (3, 3), 1),
    "3x3 without padding": (3, 9, 8, 4, 6, (3, 3), 1, (0, 0), 1),
    "5x3": (7, 9, 8, 3, 5, (5, 3), 1, (2, 1), 1),
    "7x7 strided": (2, 24, 24, 3, 8, (7, 7), 2, (3, 3), 1),
    "11x11 by 4": (2, 35, 35, 3, 8, (11, 11), 4, (2, 2), 1),
}


WAYS = {"in one": 1e9, "in chunks": 60, "row by row": 1}
SOME = ("3x3 strided, odd", "3x3 dilated", "3x3 strided and dilated", "5x3", "7x7 strided")


@pytest.mark.parametrize("case, pixels", [(c, w) for c in CASES for w in WAYS if w == "in chunks" or c in SOME])
def test_the_kernels_gradient_is_the_sum_over_windows(small, case, pixels):
    batch, height, width, channels, features, size, strides, padding, dilation = CASES[case]
    small(WAYS[pixels])
    x, kernel = draw(batch, height, width, channels), draw(*size, channels, features)
    window = strides, padding, dilation
    inputs = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    g = draw(*jax.eval_shape(lambda x, k: conv2d(x, k, *window), *inputs).shape)

    def gradients(convolve):
        return jax.vjp(lambda x, k: convolve(x, k, *window), *inputs)[1](jnp.asarray(g, jnp.float32))

    (dx, dkernel), (plain_dx, _) = jax.jit(lambda: (gradients(conv2d), gradients(plain)))()
    # A sum of n float32 products is off by about sqrt(n) 2**-24 of its root sum of squares: n < 600, so 1.5e-6 of it.
    exact = by_hand(x, g, size, *window)
    scale = np.sqrt(by_hand(x**2, g**2, size, *window).max())
    assert dkernel.shape == kernel.shape
    np.testing.assert_allclose(dkernel, exact, rtol=0, atol=6e-6 * scale)
    np.testing.assert_array_equal(dx, plain_dx)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("1x1")])
def test_a_large_factor_is_not_transposed(small, monkeypatch, case):
    monkeypatch.setattr(cpu_convolution, "TRANSPOSED_BYTES", 0)
    test_the_kernels_gradient_is_the_sum_over_windows(small, case, "in one")


@pytest.mark.parametrize("few", [0, np.inf], ids=["many pixels", "few pixels"])
@pytest.mark.parametrize("case", CASES)
def test_a_form_for_all_cores_is_the_convolution(case, few):
    """Forward and transposed, to the rounding of sums of at most 363 products in another order."""
    batch, height, width, channels, features, size, strides, padding, dilation = CASES[case]
    x = jnp.asarray(draw(batch, height, width, channels), jnp.float32)
    kernel = jnp.asarray(draw(*size, channels, features), jnp.float32)
    window = strides, padding, dilation
    ours, pull = jax.vjp(lambda x: cpu_convolution._on_all_cores(x, kernel, features, few, *window), x)
    theirs, pull_plain = jax.vjp(lambda x: plain(x, kernel, *window), x)
    g = jnp.asarray(draw(*theirs.shape), jnp.float32)
    for a, b in ((ours, theirs), (pull(g)[0], pull_plain(g)[0])):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())


@pytest.mark.parametrize("shape, features, wide", [
    ((8, 16, 56, 64), 64, True), ((8, 16, 128, 64), 64, False), ((8, 16, 56, 64), 128, False),
    ((1, 16, 56, 64), 64, False)])
def test_narrow_images_stand_side_by_side_where_there_are_too_few_tiles(shape, features, wide):
    x, kernel = jnp.zeros(shape), jnp.zeros((3, 3, shape[3], features))
    program = str(jax.make_jaxpr(lambda x: cpu_convolution._on_all_cores(x, kernel, features, 0, 1, (1, 1), 1))(x))
    assert ("f32[1,16,456," in program) == wide


@pytest.mark.parametrize("shape, features, products", [
    ((2, 4, 4, 8), 32, 2), ((2, 4, 4, 8), 31, 1), ((2, 4, 4, 8), 8, 1), ((2, 4, 4, 8), 7, 0)])
def test_convolutions_of_few_pixels_are_products_their_transposes_of_somewhat_more(small, shape, features, products):
    """32 pixels come out: to 32 channels both are products, to 8 the transpose alone. The kernel's gradient is none."""
    small(1e9)
    kernel = jnp.zeros((3, 3, shape[3], features))

    def both(x, g):
        y, pull = jax.vjp(lambda x: conv2d(x, kernel, 1, (1, 1)), x)
        return y, pull(g)

    arrays = jnp.zeros(shape), jnp.zeros((*shape[:3], features))
    program = jax.export.export(jax.jit(both), platforms=["cpu"])(*arrays).mlir_module()
    assert program.count("stablehlo.dot_general") == products
    assert program.count("stablehlo.convolution") == 2 - products


def test_groups_have_xlas_gradient(small):
    small(8)
    x, g = draw(2, 6, 6, 4), draw(2, 6, 6, 6)
    kernel = jnp.ones((3, 3, 2, 6))
    pull = jax.jit(lambda x, g: jax.vjp(lambda k: conv2d(x, k, 1, (1, 1), groups=2), kernel)[1](g)[0])
    halves = (x[..., :2], g[..., :3]), (x[..., 2:], g[..., 3:])
    parts = [by_hand(*half, (3, 3), 1, (1, 1), 1) for half in halves]
    np.testing.assert_allclose(pull(*(jnp.asarray(y, jnp.float32) for y in (x, g))), np.concatenate(parts, -1),
                               rtol=0, atol=6e-6 * np.sqrt(72))


def test_bfloat16_is_summed_in_float32(small):
    """512 ones and a thousandth: in bfloat16, whose steps at 256 are 2, a sum of ones ends at 256."""
    small(16)
    x, kernel = jnp.ones((2, 16, 16, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)
    gradient = jax.grad(lambda k: conv2d(x, k, 1, (1, 1)).astype(jnp.float32).sum())(kernel)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient[1, 1].astype(np.float32), 512)
    np.testing.assert_array_equal(gradient[0, 0].astype(np.float32), 450)


def loss(kernel, x):
    return jnp.sin(conv2d(x, kernel, 1, (1, 1))).sum()


def test_gradients_of_gradients_batches_and_rematerialisation(small, monkeypatch):
    small(16)
    x, kernel = jnp.asarray(draw(4, 6, 6, 2), jnp.float32), jnp.asarray(draw(3, 3, 2, 3), jnp.float32)

    def numbers():
        def size(kernel, x):
            return (jax.grad(loss)(kernel, x) ** 2).sum()

        return jax.jit(lambda k, x: (jax.grad(size, (0, 1))(k, x), jax.grad(jax.checkpoint(loss))(k, x),
                                     jax.vmap(jax.grad(loss), (None, 0))(k, x[:, None])))(kernel, x)

    ours = numbers()
    monkeypatch.setattr(cpu_convolution, "WORTHWHILE", np.inf)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(numbers()), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())  # at most 1152 + 288 terms


def test_a_hessian_times_a_vector(small, monkeypatch):
    """Forward over reverse mode, as sharpness and second-order optimizers take it."""
    small(16)
    x, kernel, along = (jnp.asarray(draw(*shape), jnp.float32) for shape in ((4, 6, 6, 2), (3, 3, 2, 3), (3, 3, 2, 3)))

    def product():
        return jax.jit(lambda k, v: jax.jvp(lambda k: jax.grad(loss)(k, x), (k,), (v,))[1])(kernel, along)

    ours = product()
    monkeypatch.setattr(cpu_convolution, "WORTHWHILE", np.inf)
    np.testing.assert_allclose(ours, product(), rtol=0, atol=1e-5 * np.abs(ours).max())  # at most 1152 + 288 terms


def test_forward_mode_and_several_devices(small, python):
    """Of large maps, too; under `shard_map` a kernel's gradient is summed over the devices."""
    small(16)
    x, kernel = jnp.asarray(draw(4, 6, 6, 2), jnp.float32), jnp.asarray(draw(3, 3, 2, 3), jnp.float32)
    along = jnp.asarray(draw(3, 3, 2, 3)[::-1], jnp.float32)
    by_parts = (jax.grad(loss)(kernel, x) * along).sum()
    np.testing.assert_allclose(jax.jvp(lambda k: loss(k, x), (kernel,), (along,))[1], by_parts, rtol=1e-5)
    np.testing.assert_allclose((jax.jacfwd(loss)(kernel, x) * along).sum(), by_parts, rtol=1e-5)
    assert max(python("from tests.ops import test_convolution; test_convolution.by_shard_map()", devices=4)) < 2e-6


def by_shard_map() -> None:
    """Print how far gradients by `shard_map` over four devices are from one device's, types checked and not."""
    import json

    cpu_convolution.WORTHWHILE, cpu_convolution.PIXELS, cpu_convolution.WINDOW_BYTES = 0, 8, 1
    x, kernel = jnp.asarray(draw(64, 8, 8, 2), jnp.float32), jnp.asarray(draw(3, 3, 2, 3), jnp.float32)
    mesh, errors = MeshEngine().mesh, []
    over, shared = jax.sharding.PartitionSpec(mesh.axis_names[0]), jax.sharding.PartitionSpec()
    expected = jax.grad(loss)(kernel, x)
    for check in (True, False):
        split = jax.shard_map(lambda k, x: jax.lax.psum(loss(k, x), mesh.axis_names[0]), mesh=mesh,
                              in_specs=(shared, over), out_specs=shared, check_vma=check)
        found = jax.device_get(jax.jit(jax.grad(split))(kernel, x))
        errors.append(float(abs(found - expected).max() / abs(expected).max()))
    print(json.dumps(errors))


def test_a_symbolic_batch_has_xlas_convolution(small):
    small(16)
    x, kernel = jnp.asarray(draw(4, 6, 6, 2), jnp.float32), jnp.asarray(draw(3, 3, 2, 3), jnp.float32)
    batch, = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(jax.grad(loss, (0, 1))))(
        kernel, jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype))
    assert "stablehlo.dot_general" not in exported.mlir_module()
    for a, b in zip(exported.call(kernel, x), jax.grad(loss, (0, 1))(kernel, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def operations(platforms):
    x, kernel = jnp.ones((4, 8, 8, 2)), jnp.ones((3, 3, 2, 3))
    text = jax.export.export(jax.jit(jax.grad(loss)), platforms=platforms)(kernel, x).mlir_module()
    return {name: text.count(f"stablehlo.{name}") for name in ("convolution", "while", "dot_general", "concatenate")}


@pytest.mark.parametrize("platform", ["tpu", "cuda", "rocm"])
def test_other_platforms_have_the_convolutions_alone(small, monkeypatch, platform):
    small(16)
    ours = operations([platform])
    assert operations(["cpu"])["while"] > 0
    monkeypatch.setattr(cpu_convolution, "WORTHWHILE", np.inf)
    assert ours == operations([platform]) == {"convolution": 2, "while": 0, "dot_general": 0, "concatenate": 0}


def test_small_maps_are_left_to_xla():
    assert operations(["cpu"]) == {"convolution": 2, "while": 0, "dot_general": 0, "concatenate": 0}


def on_devices() -> None:
    """Print what three convolutions over eight devices exchange, and how far their gradients are from one device's."""
    import json

    cpu_convolution.WORTHWHILE, cpu_convolution.PIXELS, cpu_convolution.WINDOW_BYTES = 0, 8, 1
    kernels = [jnp.asarray(draw(*s), jnp.float32) for s in [(3, 3, 3, 4), (3, 3, 4, 4), (1, 1, 4, 8), (1, 1, 8, 4)]]
    images = jnp.asarray(draw(32, 8, 8, 3), jnp.float32)

    def value(kernels, x):
        for kernel, strides in zip(kernels, (1, 2, 1, 1), strict=True):
            x = jnp.tanh(conv2d(x, kernel, strides, (kernel.shape[0] // 2,) * 2))
        return (x**2).mean()

    def gradients(engine):
        step = jax.jit(jax.grad(value), in_shardings=(engine.replicated, engine.split), out_shardings=engine.replicated)
        put = jax.device_put(kernels, engine.replicated), jax.device_put(images, engine.split)
        return step.lower(*put).compile().as_text(), step(*put)

    text, eight = gradients(MeshEngine())
    one = gradients(MeshEngine(jax.devices()[:1]))[1]
    kinds = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "while")
    print(json.dumps({"kinds": {k: len(re.findall(rf" {k}(?:-start)?\(", text)) for k in kinds},
                      "errors": [float(jnp.abs(a - b).max() / jnp.abs(b).max())
                                 for a, b in zip(jax.device_get(eight), jax.device_get(one), strict=True)]}))


def test_devices_keep_their_rows_and_exchange_sums_once(python):
    found = python("from tests.ops import test_convolution; test_convolution.on_devices()", devices=8)
    assert found["kinds"].pop("while") >= 2, "of the two kernels with several taps"
    assert found["kinds"].pop("all-reduce") == 1
    assert not any(found["kinds"].values()), found["kinds"]
    assert max(found["errors"]) < 2e-6  # sums of 2048 products and of 256 in another order


@pytest.mark.parametrize("batch, rows, columns, pixel_bytes, expected", [
    (32, 32, 32, 4 * 384, (2, 1)),    # 2048 pixels of 3.1 MB
    (32, 4, 4, 4 * 3072, (32, 1)),    # all: few pixels, wide windows
    (31, 4, 4, 4 * 3072, (31, 1)),    # a prime number of images
    (2, 224, 224, 4 * 384, (1, 16)),  # one image is too many
    (1, 1, 1, 4, (1, 1)),
])
def test_how_many_windows_are_copied_at_a_time(batch, rows, columns, pixel_bytes, expected):
    assert cpu_convolution._chunk(batch, rows, columns, pixel_bytes) == expected
