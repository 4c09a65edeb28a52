"""A small problem with a written-out gradient, and each optimizer as a slow NumPy twin in float64, from its paper.

The problem has what optimizers tell apart: a wide and a tall matrix, a bias, a convolution's kernel, and a rate that
changes from step to step.
"""

import numpy as np

STEPS, DECAY = 20, 0.1
DECAYED = ("inner", "outer", "kernel")  # the matrices
X = np.random.default_rng(0).normal(size=(32, 6))
Y = np.random.default_rng(1).normal(size=(32, 3))
KERNEL = np.random.default_rng(2).normal(size=(2, 2, 4, 3))
SCALES = np.linspace(0.5, 2.0, KERNEL.size).reshape(KERNEL.shape)


def start() -> dict[str, np.ndarray]:
    """Parameters: `tanh(X @ inner + bias) @ outer` is to be Y, and `kernel` is to be KERNEL."""
    rng = np.random.default_rng(3)
    return {"inner": rng.normal(size=(6, 5)) / 2, "bias": rng.normal(size=5), "outer": rng.normal(size=(5, 3)) / 2,
            "kernel": rng.normal(size=KERNEL.shape)}


def gradients(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gradient of `mean((tanh(..) @ outer - Y)**2) / 2 + sum(SCALES (kernel - KERNEL)**2) / 2`, float64."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    hidden = np.tanh(X @ p["inner"] + p["bias"])
    error = (hidden @ p["outer"] - Y) / len(X)
    before = error @ p["outer"].T * (1 - hidden**2)
    return {"inner": X.T @ before, "bias": before.sum(axis=0), "outer": hidden.T @ error,
            "kernel": SCALES * (p["kernel"] - KERNEL)}


def rate(step, peak):
    """A learning rate that falls, so that it matters where it is multiplied."""
    return peak * (1.0 - step / (2 * STEPS))


# Name -> peak rate, at which the parameters move by tenths, and hyper-parameters that are not the defaults.
SETTINGS = {
    "sgd": (0.1, {}),
    "momentum": (0.05, {"momentum": 0.8}),
    "nesterov": (0.05, {"momentum": 0.8}),
    "adagrad": (0.1, {}),
    "adadelta": (10.0, {"b2": 0.8, "eps": 1e-5}),
    "rmsprop": (0.01, {"momentum": 0.7, "b2": 0.95, "eps": 1e-3}),
    "adam": (0.05, {"b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "adamw": (0.05, {"b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "lamb": (0.05, {"b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "lars": (5.0, {"momentum": 0.8}),
    "lion": (0.01, {"b1": 0.8, "b2": 0.95}),
    "muon": (0.05, {"momentum": 0.9, "b1": 0.8, "b2": 0.95, "eps": 1e-3}),
}


def twin(name: str, peak: float, *, momentum=0.0, b1=0.0, b2=0.0, eps=0.0) -> dict[str, np.ndarray]:
    """The parameters after STEPS steps, with decay only on the matrices."""
    params = start()
    memory = {key: {slot: np.zeros_like(value) for slot in "mvs"} for key, value in params.items()}
    for step in range(STEPS):
        found = gradients(params)
        for key, w in params.items():
            decay = DECAY if key in DECAYED else 0.0
            params[key] = w - rate(step, peak) * _direction(
                name, memory[key], found[key], w, decay, key in DECAYED, step + 1, momentum, b1, b2, eps)
    return params


def _direction(name, memory, g, w, decay, is_matrix, t, momentum, b1, b2, eps):
    def remember(slot, value):
        memory[slot] = value
        return value

    def adam(g):
        m = remember("m", b1 * memory["m"] + (1 - b1) * g) / (1 - b1**t)
        v = remember("v", b2 * memory["v"] + (1 - b2) * g**2) / (1 - b2**t)
        return m / (np.sqrt(v) + eps)

    def size(x):
        return np.sqrt((x**2).sum())

    coupled = g + decay * w
    match name:
        case "sgd":
            return coupled
        case "momentum":
            return remember("m", momentum * memory["m"] + coupled)
        case "nesterov":
            return coupled + momentum * remember("m", momentum * memory["m"] + coupled)
        case "adagrad":
            return coupled / np.sqrt(remember("v", memory["v"] + coupled**2))
        case "adadelta":
            v = remember("v", b2 * memory["v"] + (1 - b2) * coupled**2)
            move = np.sqrt(memory["s"] + eps) / np.sqrt(v + eps) * coupled
            remember("s", b2 * memory["s"] + (1 - b2) * move**2)
            return move
        case "rmsprop":
            v = remember("v", b2 * memory["v"] + (1 - b2) * coupled**2)
            return remember("m", momentum * memory["m"] + coupled / (np.sqrt(v) + eps))
        case "adam":
            return adam(coupled)
        case "adamw":
            return adam(g) + decay * w
        case "lamb":
            full = adam(g) + decay * w
            return full * (size(w) / size(full) if is_matrix else 1.0)
        case "lars":
            ratio = 0.001 * size(w) / (size(g) + decay * size(w) + 1e-8) if is_matrix else 1.0
            return remember("m", momentum * memory["m"] + ratio * coupled)
        case "lion":
            direction = np.sign(b1 * memory["m"] + (1 - b1) * g) + decay * w
            remember("m", b2 * memory["m"] + (1 - b2) * g)
            return direction
        case "muon":
            if not is_matrix:
                return adam(g)
            m = remember("m", momentum * memory["m"] + (1 - momentum) * g)
            flat = (momentum * m + (1 - momentum) * g).reshape(-1, g.shape[-1])
            # The iteration acts on each singular value by itself, so it is done on these.
            left, values, right = np.linalg.svd(flat, full_matrices=False)
            values = values / np.sqrt((values**2).sum())
            for _ in range(5):
                values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
            return (0.2 * np.sqrt(max(flat.shape)) * (left * values) @ right).reshape(g.shape) + decay * w
    raise AssertionError(name)
