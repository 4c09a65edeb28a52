"""cvjax's side of a benchmark: the project's own training step and engine on a batch that lies on the device."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.data.augment import normalize, random_flip
from cvjax.experiment import work as settings
from cvjax.experiment.work import Work, synthetic_batch
from cvjax.models import create_model
from cvjax.models.dino import DINO, DINOHead
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.summary import summarize
from cvjax.tasks.dino import dino_task
from cvjax.tasks.mae import mae_task
from cvjax.tasks.supervised import supervised_task
from cvjax.tasks.task import Task
from cvjax.train.mesh import MeshEngine
from cvjax.train.optim import make_optimizer
from cvjax.train.state import create_state
from cvjax.train.step import make_train_step


class Arithmetic(NamedTuple):
    """What a piece of work takes by the model's definition, whoever does it."""

    parameters: int
    flops_per_image: float  # a multiply-add counts as two


def arithmetic(work: Work) -> Arithmetic:
    """Parameters, and FLOPs for one image: of matrix products and convolutions, from shapes alone.

    A training step is three forward passes: the backward one takes two products for each forward one. DINO's image is
    three passes of the student over all views and one of the teacher over the two global ones.
    """
    model = _model(work)
    whole = summarize(_OnImages(model), (work.image_size, work.image_size, work.channels))
    macs = whole.macs * (3 if work.training else 1)
    if work.task == "dino" and work.training:
        small = summarize(_OnImages(model), (work.local_size, work.local_size, work.channels)).macs
        macs = (2 * 3 + 2) * whole.macs + 3 * work.local_crops * small
    return Arithmetic(whole.parameters, 2.0 * macs)


class _OnImages(nn.Module):
    """A model that takes other things than images, as a function of images alone."""

    model: nn.Module

    def __call__(self, images: jax.Array, *, train: bool = False) -> Any:
        if isinstance(self.model, MaskedAutoencoder):
            rows, columns = self.model.grid
            return self.model(images, jnp.zeros((images.shape[0], rows * columns)), train=train)
        return self.model([images[:, None]] if isinstance(self.model, DINO) else images, train=train)


class JaxSteps:
    """See `cvjax.experiment.step_workers.Steps`."""

    def __init__(self, work: Work) -> None:
        self._work, self._engine = work, MeshEngine()
        self.device = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
        self.device_kind = jax.devices()[0].device_kind
        self.precision = f"jax_default_matmul_precision={jax.config.jax_default_matmul_precision or 'default'}"
        self._batch = self._engine.put(synthetic_batch(work))
        self._metrics: dict[str, Any] = {}
        prepare = self._training if work.training else self._inference
        function, self._carried, params = prepare()
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        jax.block_until_ready((self._carried, self._batch))
        self._function = function

    def start(self) -> dict[str, float]:
        """Trace, compile and make one step; seconds of the first two, and operations as XLA counts the program."""
        begin = time.perf_counter()
        lowered = self._function.lower(self._carried, self._batch)
        traced = time.perf_counter()
        self._function = lowered.compile()
        compiled = time.perf_counter()
        self.run(1)
        counted = lowered.cost_analysis() or {}
        return {"trace_seconds": traced - begin, "compile_seconds": compiled - traced,
                "xla_flops": float(counted.get("flops", 0.0))}

    def run(self, count: int) -> None:
        """So many steps, waited for at the end."""
        output = None
        for _ in range(count):
            output = self._function(self._carried, self._batch)
            if self._work.training:
                self._carried, self._metrics = output
        jax.block_until_ready(output)

    @property
    def loss(self) -> float | None:
        """Of the last training step."""
        if not self._metrics:
            return None
        total, count = self._metrics["loss"]
        return float(total / count)

    def peak_memory(self) -> int | None:
        """Bytes of the device, None where its memory is the host's."""
        statistics = jax.devices()[0].memory_stats() or {}
        return statistics.get("peak_bytes_in_use")

    def product(self, side: int) -> Callable[[], None]:
        """A function that multiplies two square matrices of the benchmark's type, and waits for it."""
        matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(self._work.dtype))
        multiply = jax.jit(jnp.matmul)
        return lambda: jax.block_until_ready(multiply(matrix, matrix))

    def _training(self) -> tuple[Any, Any, Any]:
        work = self._work
        name = work.optimizer
        momentum = {"momentum": settings.SGD_MOMENTUM} if name == "momentum" else {}
        optimizer = make_optimizer(name, lambda step: settings.RATES[name], weight_decay=settings.DECAYS[name],
                                   decay="all" if name == "momentum" else "matrices", **momentum)
        task = _task(work)

        def initialize() -> Any:
            blank = {key: jnp.zeros((1, *x.shape[1:]), x.dtype) for key, x in self._batch.items()}
            return create_state(lambda rng: task.init(rng, blank), optimizer, jax.random.key(0))

        state = self._engine.create(initialize)
        return self._engine.compile_step(make_train_step(task, optimizer), state), state, state.params

    def _inference(self) -> tuple[Any, Any, Any]:
        work = self._work
        model = _model(work)

        def initialize() -> Any:
            images = jnp.zeros((1, work.image_size, work.image_size, work.channels))
            return model.init(jax.random.key(0), images)

        def infer(variables: Any, batch: Any) -> jax.Array:
            return model.apply(variables, _preprocess(work, batch["image"]), train=False)

        variables = self._engine.create(initialize)
        return self._engine.compile_evaluation(infer), variables, variables["params"]


def _model(work: Work) -> Any:
    """The network of a task; for inference the part of it that sees whole images."""
    fields: dict[str, Any] = dict(image_size=work.image_size, dtype=jnp.dtype(work.dtype))
    if work.task == "mae":
        model = create_model(work.model, mask_ratio=settings.MASK_RATIO, **fields)
        return model if work.training else model.vit()
    if work.task == "supervised":
        return create_model(work.model, **fields)
    backbone = create_model(work.model, num_classes=0, **fields)
    head = DINOHead(work.prototypes, hidden=settings.HEAD_HIDDEN, bottleneck=settings.HEAD_BOTTLENECK,
                    dtype=jnp.dtype(work.dtype))
    return DINO(backbone, head) if work.training else backbone


def _task(work: Work) -> Task:
    model = _model(work)

    def preprocess(images: jax.Array) -> jax.Array:
        return _preprocess(work, images)

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        return preprocess(random_flip(key, image))

    if work.task == "mae":
        return mae_task(model, augment=augment, preprocess=preprocess, normalize_pixels=True)
    if work.task == "supervised":
        return supervised_task(model, augment=augment, preprocess=preprocess)

    def views(key: jax.Array, example: Any) -> list[jax.Array]:
        return [preprocess(example[name]) for name in ("globals", "locals") if name in example]

    return dino_task(model, views=views, preprocess=preprocess,
                     teacher_momentum=lambda step: settings.TEACHER_MOMENTUM,
                     teacher_temperature=lambda step: settings.TEACHER_TEMPERATURE,
                     student_temperature=settings.STUDENT_TEMPERATURE, center_momentum=settings.CENTER_MOMENTUM)


def _preprocess(work: Work, images: jax.Array) -> jax.Array:
    return normalize(images, work.mean, work.deviation)
