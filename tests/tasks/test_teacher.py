"""The teacher that tasks of self-distillation share: it starts as the student, and follows it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.tasks.teacher import ask_teacher, first_teacher, follow_student, without_noise


class Network(nn.Module):
    drop_path: float = 0.5

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(2)(x))


X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
STUDENT = Network().init(jax.random.key(0), X)


def test_the_first_teacher_is_a_copy():
    teacher = first_teacher(STUDENT)
    jax.tree.map(np.testing.assert_array_equal, teacher, STUDENT)
    for mine, theirs in zip(jax.tree.leaves(teacher), jax.tree.leaves(STUDENT)):
        assert mine.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()


def test_an_answer_moves_running_statistics_and_no_parameter():
    outputs, teacher = ask_teacher(Network(), first_teacher(STUDENT), X)
    np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-6)  # by the batch's own statistics
    jax.tree.map(np.testing.assert_array_equal, teacher["params"], STUDENT["params"])
    assert not np.array_equal(teacher["batch_stats"]["BatchNorm_0"]["mean"], np.zeros(2))


def test_the_teacher_follows_in_its_parameters_only():
    teacher = first_teacher(STUDENT)
    student = jax.tree.map(lambda x: x + 1, STUDENT["params"])
    moved = follow_student(teacher, student, jnp.float32(0.75))
    jax.tree.map(lambda new, old: np.testing.assert_allclose(new, old + 0.25, rtol=1e-6), moved["params"],
                 teacher["params"])
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], teacher["batch_stats"])


def test_only_the_rates_that_a_network_has_are_switched_off():
    assert without_noise(Network()).drop_path == 0
    assert without_noise(nn.Dense(2)) == nn.Dense(2)
