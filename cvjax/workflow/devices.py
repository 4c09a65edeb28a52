"""The devices that a configuration asks for: their engine, and how state and batches are laid out on them."""

import jax

from cvjax.layers.partition import spread_axis
from cvjax.train.layout import Layout, check_batch_size, parse_mesh
from cvjax.train.mesh import MeshEngine
from cvjax.train.pmap import PmapEngine
from cvjax.workflow.config import TrainingConfig, config_errors

Engine = MeshEngine | PmapEngine
ENGINES: dict[str, type[MeshEngine] | type[PmapEngine]] = {"jit": MeshEngine, "pmap": PmapEngine}


def make_engine(config: TrainingConfig) -> Engine:
    """The engine for all devices at hand that `--parallel`, `--mesh` and `--shard` ask for.

    Raises ConfigError if these devices cannot do that.
    """
    with config_errors():
        if config.parallel == "pmap":
            engine = PmapEngine()
            check_batch_size(config.batch_size, accumulate=config.accumulate, devices=engine.layout.data)
            return engine
        return MeshEngine(layout=make_layout(config, jax.device_count()))


def make_layout(config: TrainingConfig, devices: int) -> Layout:
    """The layout over this many devices that `--mesh` and `--shard` ask for.

    Raises ValueError for a layout that does not fit the devices, and for batches that do not split over them.
    """
    model = parse_mesh(config.mesh, devices) if config.mesh else 1
    check_batch_size(config.batch_size, accumulate=config.accumulate, devices=devices // model)
    return Layout(devices // model, model, config.shard, spread_axis)
