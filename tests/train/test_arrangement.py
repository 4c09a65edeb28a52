"""The order of several machines' devices in the mesh."""

from types import SimpleNamespace

import pytest

from cvjax.train.layout import Layout
from cvjax.train.mesh import arranged


def device(number: int, process: int) -> SimpleNamespace:
    """A GPU of a node of its own: JAX calls each node a slice, and `jax.make_mesh` takes no more than one."""
    return SimpleNamespace(id=number, process_index=process, slice_index=process, platform="gpu", device_kind="a GPU")


@pytest.mark.parametrize("model", [1, 2, 4])
def test_rows_of_the_mesh_are_the_devices_of_one_process_after_the_other(model):
    """A pod's devices are numbered along its torus: those of a process are not always neighbours."""
    devices = [device(number, process) for number, process in enumerate([0, 0, 1, 1, 0, 0, 1, 1])]
    mesh = arranged(devices, Layout(8 // model, model))
    assert mesh.shape == (8 // model, model)
    assert [each.id for each in mesh.ravel()] == [0, 1, 4, 5, 2, 3, 6, 7]
