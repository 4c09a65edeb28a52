"""cvjax's side: the project's own training step and engine, on a batch that is on the device already."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.steps import workload as settings
from benchmarks.steps.workload import Workload, synthetic_batch
from cvjax.data.augment import normalize, random_flip
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
    """The parameters and arithmetic of a workload by the model's definition, the same for every library."""

    parameters: int
    flops_per_image: float  # a multiply-add counts as two


def arithmetic(workload: Workload) -> Arithmetic:
    """Parameters, and FLOPs for one image: of its matrix products and convolutions, computed from shapes.

    A training step counts as three forward passes, because the backward pass has two products for each one of the
    forward pass. For DINO, the student makes three passes over all views, the teacher one over the two global views.
    """
    model = _model(workload)
    whole = summarize(_OnImages(model), (workload.image_size, workload.image_size, workload.channels))
    macs = whole.macs * (3 if workload.training else 1)
    if workload.task == "dino" and workload.training:
        small = summarize(_OnImages(model), (workload.local_size, workload.local_size, workload.channels)).macs
        macs = (2 * 3 + 2) * whole.macs + 3 * workload.local_crops * small
    return Arithmetic(whole.parameters, 2.0 * macs)


class _OnImages(nn.Module):
    """A model that takes more than images (MAE, DINO), as a function of images only."""

    model: nn.Module

    def __call__(self, images: jax.Array, *, train: bool = False) -> Any:
        if isinstance(self.model, MaskedAutoencoder):
            rows, columns = self.model.grid
            return self.model(images, jnp.zeros((images.shape[0], rows * columns)), train=train)
        return self.model([images[:, None]] if isinstance(self.model, DINO) else images, train=train)


class CvjaxSteps:
    """cvjax's `benchmarks.steps.worker_processes.Steps`."""

    def __init__(self, workload: Workload) -> None:
        self._workload, self._engine = workload, MeshEngine()
        self.device = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
        self.device_kind = jax.devices()[0].device_kind
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]: set by JAX
        self.precision = f"jax_default_matmul_precision={precision or 'default'}"
        self._batch = self._engine.put(synthetic_batch(workload))
        self._metrics: dict[str, Any] = {}
        prepare = self._training if workload.training else self._inference
        function, self._carried, params = prepare()
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        jax.block_until_ready((self._carried, self._batch))
        self._function = function

    def start(self) -> dict[str, float]:
        """Trace, compile and run one step.

        Returns:
            `trace_seconds`, `compile_seconds`, and `xla_flops`: FLOPs of the program as XLA counts them.
        """
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
        """Run `count` steps and wait for the last one."""
        output = None
        for _ in range(count):
            output = self._function(self._carried, self._batch)
            if self._workload.training:
                self._carried, self._metrics = output
        jax.block_until_ready(output)

    @property
    def loss(self) -> float | None:
        """Loss of the last training step; None for inference."""
        if not self._metrics:
            return None
        total, count = self._metrics["loss"]
        return float(total / count)

    def peak_memory(self) -> int | None:
        """The most bytes of the device's memory that were in use; None if the device uses the host's memory."""
        statistics = jax.devices()[0].memory_stats() or {}
        return statistics.get("peak_bytes_in_use")

    def product(self, side: int) -> Callable[[], None]:
        """A function that multiplies two square matrices of the workload's type, and waits for the result."""
        matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(self._workload.dtype))
        multiply = jax.jit(jnp.matmul)
        return lambda: jax.block_until_ready(multiply(matrix, matrix))

    def _training(self) -> tuple[Any, Any, Any]:
        workload = self._workload
        name = workload.optimizer
        optimizer = make_optimizer(name, lambda step: settings.RATES[name], weight_decay=settings.DECAYS[name],
                                   decay="all" if name == "momentum" else "matrices",
                                   momentum=settings.SGD_MOMENTUM if name == "momentum" else None)
        task = _task(workload)

        def initialize() -> Any:
            blank = {key: jnp.zeros((1, *x.shape[1:]), x.dtype) for key, x in self._batch.items()}
            return create_state(lambda rng: task.init(rng, blank), optimizer, jax.random.key(0))

        state = self._engine.create(initialize)
        return self._engine.compile_step(make_train_step(task, optimizer), state), state, state.params

    def _inference(self) -> tuple[Any, Any, Any]:
        workload = self._workload
        model = _model(workload)

        def initialize() -> Any:
            images = jnp.zeros((1, workload.image_size, workload.image_size, workload.channels))
            return model.init(jax.random.key(0), images)

        def infer(variables: Any, batch: Any) -> jax.Array:
            return model.apply(variables, _preprocess(workload, batch["image"]), train=False)

        variables = self._engine.create(initialize)
        return self._engine.compile_evaluation(infer), variables, variables["params"]


def _model(workload: Workload) -> Any:
    """The network of a workload; for inference, the part of it that sees whole images."""
    fields: dict[str, Any] = dict(image_size=workload.image_size, dtype=jnp.dtype(workload.dtype))
    if workload.task == "mae":
        model = create_model(workload.model, mask_ratio=settings.MASK_RATIO, **fields)
        return model if workload.training else model.vit()
    if workload.task == "supervised":
        return create_model(workload.model, **fields)
    backbone = create_model(workload.model, num_classes=0, **fields)
    head = DINOHead(workload.prototypes, hidden=settings.HEAD_HIDDEN, bottleneck=settings.HEAD_BOTTLENECK,
                    dtype=jnp.dtype(workload.dtype))
    return DINO(backbone, head) if workload.training else backbone


def _task(workload: Workload) -> Task:
    model = _model(workload)

    def preprocess(images: jax.Array) -> jax.Array:
        return _preprocess(workload, images)

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        return preprocess(random_flip(key, image))

    if workload.task == "mae":
        return mae_task(model, augment=augment, preprocess=preprocess, normalize_pixels=True)
    if workload.task == "supervised":
        return supervised_task(model, augment=augment, preprocess=preprocess)

    def views(key: jax.Array, example: Any) -> list[jax.Array]:
        return [preprocess(example[name]) for name in ("globals", "locals") if name in example]

    return dino_task(model, views=views, preprocess=preprocess,
                     teacher_momentum=lambda step: jnp.float32(settings.TEACHER_MOMENTUM),
                     teacher_temperature=lambda step: jnp.float32(settings.TEACHER_TEMPERATURE),
                     student_temperature=settings.STUDENT_TEMPERATURE, center_momentum=settings.CENTER_MOMENTUM)


def _preprocess(workload: Workload, images: jax.Array) -> jax.Array:
    return normalize(images, workload.mean, workload.deviation)
