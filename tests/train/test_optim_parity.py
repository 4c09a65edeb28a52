"""Twenty steps of each optimizer against torch's, or timm's where torch has none: `pytest -m parity` where they are."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimizer_problem as problem
import pytest

from cvjax.train.optim import make_optimizer

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def timm_optim(torch):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "parity")
        import torchvision_operators  # noqa: F401  before timm and torchvision
    return pytest.importorskip("timm.optim")


def ours(name, peak, **options):
    optimizer = make_optimizer(name, lambda step: problem.rate(step, peak), weight_decay=problem.DECAY, **options)
    params = jax.tree.map(jnp.float32, problem.start())
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(problem.STEPS):
        updates, state = update(jax.tree.map(jnp.float32, problem.gradients(params)), state, params)
        params = optax.apply_updates(params, updates)
    return params


def theirs(torch, make, peak, clip_norm=None):
    """`make(groups)` builds the optimizer: one group that decays, one that does not."""
    params = {key: torch.tensor(value, dtype=torch.float32) for key, value in problem.start().items()}
    groups = [{"params": [p for key, p in params.items() if (key in problem.DECAYED) == decays],
               "weight_decay": problem.DECAY * decays} for decays in (True, False)]
    optimizer = make([group for group in groups if group["params"]])
    for step in range(problem.STEPS):
        for key, g in problem.gradients({key: p.numpy() for key, p in params.items()}).items():
            params[key].grad = torch.tensor(g, dtype=torch.float32)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(params.values(), clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = problem.rate(step, peak)
        optimizer.step()
    return {key: p.numpy() for key, p in params.items()}


def renamed(options):
    """Our hyper-parameters under torch's names."""
    options = dict(options)
    betas = {"betas": (options.pop("b1"), options.pop("b2"))} if "b1" in options else {}
    return options | betas


def compare(found, expected, atol):
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=atol, err_msg=key)


# Both sides round in float32: twice the bound that tests/train/test_optim.py derives for one.
ATOL = 8e-6

TORCH = {"sgd": "SGD", "momentum": "SGD", "nesterov": "SGD", "adagrad": "Adagrad", "adadelta": "Adadelta",
         "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}


@pytest.mark.parametrize("name", TORCH)
def test_torch(torch, name):
    peak, options = problem.SETTINGS[name]
    given = renamed(options)
    if name in ("adadelta", "rmsprop"):
        given[{"adadelta": "rho", "rmsprop": "alpha"}[name]] = given.pop("b2")
    given |= {"nesterov": True} if name == "nesterov" else {}
    make = getattr(torch.optim, TORCH[name])
    for clip_norm in (None, 0.5):
        compare(ours(name, peak, clip_norm=clip_norm, **options),
                theirs(torch, lambda groups: make(groups, lr=peak, **given), peak, clip_norm), ATOL)


@pytest.mark.parametrize("name", TORCH)
def test_defaults_are_torchs(torch, name):
    given = {"momentum": 0.9} if name in ("momentum", "nesterov") else {}
    given |= {"nesterov": True} if name == "nesterov" else {}
    make = getattr(torch.optim, TORCH[name])
    compare(ours(name, 0.02), theirs(torch, lambda groups: make(groups, lr=0.02, **given), 0.02), ATOL)


@pytest.mark.parametrize("name, extra", [("lars", {}), ("lamb", {"max_grad_norm": None}), ("lion", {})])
def test_timm(torch, timm_optim, name, extra):
    peak, options = problem.SETTINGS[name]
    make = getattr(timm_optim, name.capitalize())
    given = renamed(options) | extra
    compare(ours(name, peak, **options), theirs(torch, lambda groups: make(groups, lr=peak, **given), peak), ATOL)


def test_lamb_of_timm_clips_by_default(torch, timm_optim):
    """Its norm of 1 is our clip_norm."""
    compare(ours("lamb", 0.05, clip_norm=1.0),
            theirs(torch, lambda groups: timm_optim.Lamb(groups, lr=0.05), 0.05), ATOL)


def muon_of_torch(torch, peak, momentum):
    return lambda groups: torch.optim.Muon(groups, lr=peak, momentum=momentum, adjust_lr_fn="match_rms_adamw")


@pytest.fixture
def only_matrices(monkeypatch):
    """torch's Muon takes only matrices: the problem without its convolution and its bias."""
    whole, gradients = problem.start, problem.gradients

    def start():
        return {key: value for key, value in whole().items() if key in ("inner", "outer")}

    monkeypatch.setattr(problem, "start", start)
    monkeypatch.setattr(problem, "gradients",
                        lambda params: {key: value for key, value in gradients(whole() | dict(params)).items()
                                        if key in params})


def test_muon_of_torch_in_float32(torch, only_matrices, monkeypatch):
    """torch casts to bfloat16 before it orthogonalises; without the cast the numbers are ours."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    found = ours("muon", 0.05, momentum=0.9)
    compare(found, theirs(torch, muon_of_torch(torch, 0.05, 0.9), 0.05), 4e-5)  # twice the twin's bound
    compare(ours("muon", 0.05), theirs(torch, muon_of_torch(torch, 0.05, 0.95), 0.05), 4e-5)


def test_muon_of_torch_as_it_is(torch, only_matrices):
    """bfloat16 keeps 8 bits, so entries of a direction (about 0.2) are off by some 2**-8 of that, more where a small
    singular value was lifted: over 20 steps of 0.05 * 3/4 that is 6e-4 and more, while the parameters move by 0.1."""
    found, start = ours("muon", 0.05, momentum=0.9), problem.start()
    expected = theirs(torch, muon_of_torch(torch, 0.05, 0.9), 0.05)
    compare(found, expected, 1e-2)
    assert all(np.abs(expected[key] - start[key]).max() > 0.1 for key in start)


def test_muon_of_timm_takes_convolutions_and_adamw_the_rest(torch, timm_optim, monkeypatch):
    """timm flattens `(out, in, h, w)` to `(out, in h w)`, and uses AdamW where Muon does not fit."""
    import timm.optim.muon as module

    exact = module.zeropower_via_newtonschulz
    monkeypatch.setattr(module, "zeropower_via_newtonschulz",
                        lambda *arguments, **options: exact(*arguments, **options | {"dtype": torch.float32}))
    # timm leaves matrices with a side below 4 to AdamW, as this small problem has them.
    monkeypatch.setattr(module, "_is_suitable_for_muon", lambda param, **options: param.ndim > 1)
    whole, gradients = problem.start, problem.gradients
    as_timm = {"kernel": lambda x: x.transpose(3, 2, 0, 1)}
    back = {"kernel": lambda x: x.transpose(2, 3, 1, 0)}

    def swap(tree, how):
        return {key: np.ascontiguousarray(how.get(key, lambda x: x)(np.asarray(value))) for key, value in tree.items()}

    options = dict(momentum=0.9, b1=0.8, b2=0.95, eps=1e-3)
    found = ours("muon", 0.05, **options)
    monkeypatch.setattr(problem, "start", lambda: swap(whole(), as_timm))
    monkeypatch.setattr(problem, "gradients", lambda params: swap(gradients(swap(params, back)), as_timm))

    def make(groups):
        matrices, bias = groups  # with nesterov, timm would move the bias by NAdamW
        return timm_optim.Muon([matrices, bias | {"nesterov": False}], lr=0.05, momentum=0.9, nesterov=True,
                               ns_coefficients="original", betas=(0.8, 0.95), eps=1e-3)

    expected = theirs(torch, make, 0.05)
    assert set(expected) == set(found)
    compare(found, swap(expected, back), 4e-5)
