"""Ranking by frozen features, against a slow twin; and copies of pictures in a network that sees only colours."""

import json

import jax
import numpy as np
import pytest

import cvjax.workflow.frozen.retrieval
from cvjax.data.augment import normalize
from cvjax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from cvjax.visualize.neighbours import neighbour_panel
from cvjax.workflow.frozen.copy_detection import describe, originals_of
from cvjax.workflow.frozen.encoder import Encoder
from tests.experiments.tiny_vit import plain_picture, tiny_vit, write_picture, write_vit_run, write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "vit.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise of 32x32 pixels in three classes: a file, and its arrays."""
    draw = np.random.default_rng(0)
    arrays = dict(train_images=draw.integers(0, 256, (20, 32, 32, 3), np.uint8), train_labels=draw.integers(0, 3, 20),
                  test_images=draw.integers(0, 256, (7, 32, 32, 3), np.uint8), test_labels=np.arange(7) % 3)
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    np.savez(path, **arrays)
    return f"npz:{path}", arrays


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return write_vit_run(tmp_path_factory.mktemp("run"), plain=False)


def by_hand(queries, gallery, query_labels, gallery_labels) -> tuple[float, dict[int, float]]:
    """mAP and precision at k, one query at a time."""
    scores, hits = [], []
    for query, label in zip(queries, query_labels):
        cosine = [query @ other / np.linalg.norm(query) / np.linalg.norm(other) for other in gallery]
        right = [gallery_labels[row] == label for row in np.argsort(cosine)[::-1]]
        scores.append(np.mean([sum(right[:place + 1]) / (place + 1) for place in range(len(right)) if right[place]]))
        hits.append(right)
    return np.mean(scores), {k: np.mean([sum(row[:k]) / k for row in hits]) for k in (1, 5, 10)}


def test_class_retrieval_is_that_of_a_slow_twin(command, tmp_path, monkeypatch, data, trained):
    drawn = {}

    def noting(path, *arguments, **options):
        drawn.update(zip(("images", "neighbours", "similarity", "labels", "neighbour_labels"), arguments))
        neighbour_panel(path, *arguments, **options)

    monkeypatch.setattr(cvjax.workflow.frozen.retrieval, "neighbour_panel", noting)
    source, arrays = data
    folder = tmp_path / "retrieval"
    arguments = ("--checkpoint", trained, "--data", source, "--batch-size", 4, "--run-dir", folder, "--pool",
                 "token+avg")  # of which kNN and this see the class token
    done = command("retrieval", *arguments)
    assert done.status == 0, done.err
    model, variables = tiny_vit(plain=False)
    seen = {part: np.asarray(normalize(arrays[f"{part}_images"], IMAGENET_MEAN, IMAGENET_STD), np.float64) for part in
            ("train", "test")}
    both = np.concatenate([seen["train"], seen["test"]]).astype(np.float32)
    both = np.asarray(jax.jit(model.apply)(variables, both), np.float64)
    features = {"train": both[:20], "test": both[20:]}
    summary = json.loads((folder / "summary.json").read_text())
    for name, x in (("supervised", features), ("pixels", {part: y.reshape(len(y), -1) for part, y in seen.items()})):
        mean, precision = by_hand(x["test"], x["train"], arrays["test_labels"], arrays["train_labels"])
        # Float32 cosines could swap neighbours closer than 1e-6; with 140 of these pairs none is.
        assert summary["metrics"][f"retrieval/{name}"] == pytest.approx(mean)
        for k, value in precision.items():
            assert summary["metrics"][f"retrieval/{name}/p@{k}"] == pytest.approx(value)
    assert "retrieval/random" in summary["metrics"]
    units = {part: x / np.linalg.norm(x, axis=1, keepdims=True) for part, x in features.items()}
    cosine = units["test"] @ units["train"].T
    found = np.argsort(-cosine, axis=1)[:, :8]
    np.testing.assert_array_equal(drawn["images"], arrays["test_images"] / 255)  # 7, fewer than there is place for
    np.testing.assert_array_equal(drawn["neighbours"], arrays["train_images"][found] / 255)
    np.testing.assert_array_equal(drawn["labels"], arrays["test_labels"])
    np.testing.assert_array_equal(drawn["neighbour_labels"], arrays["train_labels"][found])
    np.testing.assert_allclose(drawn["similarity"], np.take_along_axis(cosine, found, 1), atol=1e-5)  # of float32
    protocol = summary["protocol"]
    assert protocol["retrieval"]["queries"] == 7 and protocol["retrieval"]["ks"] == [1, 5, 10]
    assert protocol["features"]["supervised"] == {"pool": "token+avg", "retrieval_blocks": 1}
    assert protocol["encoders"]["supervised"]["checkpoint"] == str(trained)
    assert (folder / "figures" / "neighbours.png").stat().st_size > 10_000
    assert "is complete" in command("retrieval", *arguments).out


def test_what_retrieval_cannot_do_is_one_line(command, tmp_path, data, trained):
    no_labels = tmp_path / "unlabelled.npz"
    np.savez(no_labels, train_images=np.zeros((9, 32, 32, 3), np.uint8))
    for arguments, message in ((("--data", f"npz:{no_labels}", "--batch-size", 4), "needs class labels and a test"),
                               (("--data", data[0], "--probe-blocks", 2), "--probe-blocks 2: it must be left out"),
                               (("--data", "digits", "--batch-size", 4), "takes images of 3 channels, the data has 1")):
        done = command("retrieval", "--checkpoint", trained, "--run-dir", tmp_path / "run", *arguments, "--dry-run")
        assert message in done.complaint


RED, BLUE, GREEN = (230, 30, 30), (30, 60, 240), (20, 220, 60)


def test_copies_that_come_second_score_a_quarter(command, tmp_path, weights):
    """The trapezoid from (0, 0 / 1) to (1, 1 / 2)."""
    for name, colour in (("cat", RED), ("cat2", BLUE)):
        plain_picture(tmp_path / "originals" / f"{name}.png", colour, (40, 30))
    for name, colour in (("cat_a", RED), ("cat2_b", BLUE), ("cat2_c", RED)):
        plain_picture(tmp_path / "copies" / f"{name}.png", colour, (20, 20))
    arguments = ("--originals", tmp_path / "originals", "--copies", tmp_path / "copies", *weights, "--batch-size", 2,
                 "--output", tmp_path / "out")
    done = command("copy_detection", *arguments)
    assert done.status == 0, done.err
    assert "cat2_c.png: average precision 25.00 %" in done.out and "cat_a.png" not in done.out
    assert f"mAP {100 * (1 + 1 + 0.25) / 3:.2f} % of 3 copies among 2 originals and 0 distractors" in done.out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metrics"]["map"] == pytest.approx(0.75)
    assert summary["protocol"]["image_size"] == 32 and summary["protocol"]["database"] == 2
    # A distractor of the very colour stands behind its original, and before another one: (0 / 2 + 1 / 3) / 2.
    plain_picture(tmp_path / "distractors" / "x.png", RED)
    done = command("copy_detection", *arguments, "--distractors", tmp_path / "distractors", "--image-size", 64)
    assert "among 2 originals and 1 distractors" in done.out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metrics"]["map"] == pytest.approx((1 + 1 + 1 / 6) / 3)
    assert summary["protocol"] | dict(database=3, distractors=1, prefix=None, image_size=64) == summary["protocol"]
    assert "mAP 100.00 %" in command("copy_detection", *arguments, "--prefix", 3).out  # both are right for all


def test_whitening_is_of_both_sides_by_its_folder(command, tmp_path, weights):
    """Copies that are equal to their originals stay equal."""
    for name, colour in (("cat", RED), ("dog", BLUE)):
        plain_picture(tmp_path / "originals" / f"{name}.png", colour)
        plain_picture(tmp_path / "whitening" / f"{name}.png", colour)
    plain_picture(tmp_path / "whitening" / "x.png", GREEN)
    arguments = ("--originals", tmp_path / "originals", "--copies", tmp_path / "originals", *weights,
                 "--whitening", tmp_path / "whitening", "--output", tmp_path / "out")
    done = command("copy_detection", *arguments)
    assert "mAP 100.00 %" in done.out, done.err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["protocol"]["whitening"] == 3
    for name in ("cat", "dog", "x"):
        plain_picture(tmp_path / "whitening" / f"{name}.png", RED)
    assert "whitening features must differ" in command("copy_detection", *arguments).complaint


def test_descriptors_are_of_normalised_squares(tmp_path):
    model, variables = tiny_vit(plain=False)
    draw = np.random.default_rng(1)
    pixels = draw.integers(0, 256, (3, 32, 32, 3), np.uint8)
    paths = [write_picture(tmp_path / f"{number}.png", image) for number, image in enumerate(pixels)]
    found = describe(Encoder("vit", model, variables, "token", 1, 32, 3, Preprocessing()), paths, 32, 2, "pictures")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    seen = np.float32((pixels / 255 - mean) / std)
    tokens = np.asarray(jax.jit(lambda x: model.apply(variables, x, method="tokens"))(seen), np.float64)
    general = (np.maximum(tokens[:, 1:], 1e-6) ** 4).mean(axis=1) ** 0.25
    np.testing.assert_allclose(found, np.concatenate([tokens[:, 0], general], axis=1), atol=1e-4)  # of float32 near 1


def test_the_longest_name_is_the_original(tmp_path):
    originals = [tmp_path / name for name in ("img1.jpg", "img10.png", "200000.jpg", "200100.jpg", "200002.jpg")]
    copies = [tmp_path / name for name in ("img10_blur.jpg", "img1_blur.jpg", "img1.png")]
    assert originals_of(copies, originals) == [[1], [0], [0]]
    assert originals_of([tmp_path / "200001.jpg"], originals, prefix=4) == [[2, 4]]


@pytest.mark.parametrize("arguments, message", [
    ("--originals IN --copies IN", "give --checkpoint, or --model with --weights"),
    ("--originals IN --copies OTHER VIT", "b.png has no original: its name must begin with the name of one, such as a"),
    ("--originals IN --copies OTHER VIT --prefix 1", "must begin with the first 1 characters of one's name, such as a"),
    ("--originals IN --copies IN VIT --prefix 0", "--prefix 0: it must be at least 1"),
    ("--originals IN --copies EMPTY VIT", "no images ("), ("--originals gone --copies IN VIT", "no such folder: gone"),
    ("--originals IN --copies IN --distractors EMPTY VIT", "no images ("),
    ("--originals IN --copies BAD VIT", "a_bad.png: not a JPEG, PNG"),
    ("--originals IN --copies IN VIT --image-size 33", "--image-size 33: it must be a multiple of the patches' 8"),
    ("--originals IN --copies IN VIT --batch-size 0", "--batch-size 0: it must be at least 1"),
])
def test_a_mistake_in_copy_detection_is_one_line(command, tmp_path, weights, arguments, message):
    plain_picture(tmp_path / "in" / "a.png", RED)
    plain_picture(tmp_path / "other" / "b.png", RED)
    for name in ("empty", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "a_bad.png").write_bytes(b"no picture")
    places = {word.upper(): [tmp_path / word] for word in ("in", "other", "empty", "bad")} | {"VIT": weights}
    words = [word for each in arguments.split() for word in places.get(each, [each])]
    assert message in command("copy_detection", *words, "--output", tmp_path / "out").complaint
