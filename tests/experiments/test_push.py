"""Runs as folders for the Hugging Face Hub: what is written, what is sent, and what is refused."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from markdown_it import MarkdownIt

from cvjax.interop import create_pretrained
from cvjax.models import create_model
from cvjax.text import printable
from tests.experiments.test_hostile_names import CLASSES, obeyed
from tests.experiments.written_runs import write_model_run, write_run

VIT = dict(width=8, depth=1, heads=2, patch_size=4, image_size=8)
CHANGED = {"preset": "digits", "changed": {"data": ["digits", "folder:/somebody/private/photos"], "seed": [0, 3]}}


def drawn(model: Any) -> Any:
    """Variables of a model, random ones but for norms' scales."""
    shape = (1, model.image_size, model.image_size, model.in_channels)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros(shape, np.float32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(0.5, 1, leaf.shape).astype(np.float32), shapes)


def vit_run(folder: Path, names: tuple[str, ...] = ("cat", "dog"), **options: Any) -> Path:
    model = create_model("vit_tiny_patch16_224", num_classes=len(names), **VIT)
    options = {"metrics": {"test/top1": 0.75, "test/nll": 0.5}} | options
    options["config"] = {"model": "vit_tiny_patch16_224"} | options.get("config", {})
    return write_model_run(folder, model, drawn(model), names=names, **options)


def front_of(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    return yaml.safe_load(front)


@pytest.fixture
def push(command: Any, tmp_path: Path) -> Any:
    def run(folder: Path, *options: Any, hub: str = "hf-hub:me/my-net"):
        done = command("push", folder, hub, "--output", tmp_path / "out", *options)
        return done, tmp_path / "out"

    return run


def test_a_dry_run_writes_weights_config_and_card(push: Any, tmp_path: Path) -> None:
    config = {"model": "vit_tiny_patch16_224", "data": "folder:/somebody/private/photos", "started": CHANGED,
              "pretrained": "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k"}
    done, out = push(vit_run(tmp_path / "run", config=config), "--dry-run", "--license", "cc-by-4.0")
    assert done.status == 0, done.err
    assert "nothing is sent" in done.out and "timm builds it as vit_tiny_patch16_224" in done.out
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (out / "README.md").read_text()
    assert front_of(card) == {
        "library_name": "timm", "license": "cc-by-4.0", "pipeline_tag": "image-classification",
        "base_model": "timm/vit_tiny_patch16_224.augreg_in21k",
        "tags": ["image-classification", "timm", "cvjax", "jax"]}
    assert "| test/top1 | 75.00 % | 360 |" in card and "of seed 3" in card
    assert 'timm.create_model("hf-hub:me/my-net", pretrained=True)' in card
    assert 'create_pretrained("vit_tiny_patch16_224", "hf-hub:me/my-net")' in card
    assert "somebody" not in card and r"folder\:photos" in card, "the folders of a machine are private"
    assert json.loads((out / "config.json").read_text())["pretrained_cfg"]["license"] == "cc-by-4.0"
    done, _ = push(tmp_path / "run", "--dry-run", "--license", "no")
    assert done.status == 0 and front_of((out / "README.md").read_text())["license"] == "no", "a word, not False"
    again, _ = push(tmp_path / "run", "--dry-run")
    assert again.status == 0 and "no licence is stated" in again.out
    assert "license" not in front_of((out / "README.md").read_text())


def test_names_cannot_break_the_card(push: Any, tmp_path: Path) -> None:
    names = (*CLASSES, "a | b", "``` *bold* [link](x) ![](y) &lt; --- # $a$ <b>", "C:\\d", "x" * 10_000)
    done, out = push(vit_run(tmp_path / "run", names, config={"data": "folder:a|b`<img>\n\n# c"}), "--dry-run")
    assert done.status == 0 and not obeyed(done.out) and not obeyed(done.err), done.err
    card = (out / "README.md").read_text()
    assert not obeyed(card) and front_of(card)["library_name"] == "timm"
    tokens = MarkdownIt("commonmark").enable("table").parse(card.split("---\n", 2)[2])
    inline = [token for token in tokens if token.type == "inline"]
    kinds = {token.type for token in tokens} | {child.type for token in inline for child in token.children or ()}
    assert kinds.isdisjoint({"html_block", "html_inline", "link_open", "image", "strong_open", "em_open", "hr"})
    assert [token.content for token in inline if token.level == 1 and tokens[tokens.index(token) - 1].tag == "h1"] == [
        r"my\-net"]
    shown = ["".join(child.content for child in token.children or ()) for token in inline]
    assert any(r"on folder:a|b`<img>\n\n# c. Its outputs" in text for text in shown)
    assert ", ".join(f"{i} {printable(name, most=200)}" for i, name in enumerate(names)) + "." in shown
    assert [token.content.count("\n") > 1 for token in tokens if token.type == "fence"] == [True] * 2 + [False]
    back = create_pretrained("vit_tiny_patch16_224", out / "model.safetensors")
    assert back.class_names == names


def test_places_are_private_also_as_keys_and_above_the_working_folder(push: Any, tmp_path: Path) -> None:
    run = vit_run(tmp_path / "run", experiment="average", config={"data": "folder:../somebody/photos"})
    summary = json.loads((run / "summary.json").read_text())
    summary["protocol"]["runs"] = {f"/somebody/{place}/a": {"step": step} for step, place in enumerate("xy")}
    (run / "summary.json").write_text(json.dumps(summary))
    done, out = push(run, "--dry-run")
    assert done.status == 0, done.err
    card = (out / "README.md").read_text()
    assert "somebody" not in card and r"folder\:photos" in card
    assert r"| runs/a/step | 0 |" in card and r"| runs/a/step | 1 |" in card, "both are told"


def test_a_regressors_card_says_what_its_outputs_become(push: Any, tmp_path: Path) -> None:
    run = vit_run(tmp_path / "run", ("x|y", "z"), kind="regressor", metrics={"test/mae": 0.5}, mean=[-1.25, 3e-9],
                  std=[2.0, 1 / 3])
    done, out = push(run, "--dry-run")
    assert done.status == 0, done.err
    card = (out / "README.md").read_text()
    assert "| `0` x\\|y | -1.25 | 2 |\n| `1` z | 3e-09 | 0.333333333 |" in card


def test_a_network_that_timm_lacks_is_published_in_our_names(push: Any, tmp_path: Path) -> None:
    model = create_model("lenet5", num_classes=2)
    variables = drawn(model)
    run = write_model_run(tmp_path / "run", model, variables, names=("a", "b"), metrics={}, config={"model": "lenet5"})
    done, out = push(run, "--dry-run")
    assert done.status == 0 and "timm has no such network" in done.out, done.err
    card = (out / "README.md").read_text()
    assert front_of(card)["library_name"] == "cvjax" and "timm" not in front_of(card)["tags"]
    assert "timm has no such network" in card and "import timm" not in card
    back = create_pretrained("lenet5", out / "model.safetensors")
    assert all(map(np.array_equal, jax.tree.leaves(back.variables), jax.tree.leaves(variables)))


def test_an_encoder_has_no_head_and_no_classes(push: Any, tmp_path: Path) -> None:
    run = vit_run(tmp_path / "run", (), kind="encoder", experiment="dino_pretrain", name="dino", pool="token", blocks=1)
    done, out = push(run, "--dry-run")
    assert done.status == 0, done.err
    config, card = json.loads((out / "config.json").read_text()), (out / "README.md").read_text()
    assert config["num_classes"] == 0 and "label_names" not in config
    assert front_of(card)["pipeline_tag"] == "image-feature-extraction" and "experiments.knn" in card


@pytest.mark.parametrize("hub", ["me/net", "hf-hub:net", "hf-hub:me/net@v1", "hf-hub:../../etc", "hf-hub:me/a b"])
def test_what_is_no_name_on_the_hub_is_one_line(push: Any, tmp_path: Path, hub: str) -> None:
    assert hub in push(tmp_path / "gone", hub=hub)[0].complaint


def test_what_cannot_be_published_is_one_line(push: Any, tmp_path: Path) -> None:
    assert "no checkpoints in it" in push(tmp_path / "gone")[0].complaint
    assert "is not complete: it has no summary.json" in push(vit_run(tmp_path / "half", metrics=None))[0].complaint
    linear = write_run(tmp_path / "linear")
    assert "no weight table for Linear" in push(linear)[0].complaint
    assert "this takes an encoder or a classifier" in push(
        vit_run(tmp_path / "boxes", kind="detector", experiment="detect"))[0].complaint
    probe = vit_run(tmp_path / "probe", (), kind="encoder", experiment="linear_probe")
    assert "judges a network that it did not train" in push(probe)[0].complaint
    run = vit_run(tmp_path / "run")
    assert "--license Apache 2" in push(run, "--license", "Apache 2")[0].complaint
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("kept")
    assert "holds other files (README.md)" in push(run, "--dry-run")[0].complaint
    assert (tmp_path / "out" / "README.md").read_text() == "kept"


def test_only_what_a_push_wrote_is_written_over_even_if_it_was_killed(push: Any, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = vit_run(tmp_path / "run"), tmp_path / "out"

    def killed(*_: Any) -> None:
        (out / "model.safetensors.1.partial").write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("experiments.wiring.push.save_weights", killed)
        assert push(run, "--dry-run")[0].status != 0
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors.1.partial"]
    done, _ = push(run, "--dry-run")
    assert done.status == 0, done.err
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((out / "config.json").read_text())
    del config["cvjax"]  # as timm writes it
    (out / "config.json").write_text(json.dumps(config))
    (out / "model.safetensors").write_text("downloaded")
    assert "holds other files (README.md, config.json, model.safetensors)" in push(run, "--dry-run")[0].complaint
    assert (out / "model.safetensors").read_text() == "downloaded"


class Hub:
    """Stands in for huggingface_hub's client: notes what it is asked, and raises an error if it has one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, []

    def __call__(self, token: bool) -> "Hub":
        assert token is True, "nobody's requests are refused later, in other words"
        return self

    def create_repo(self, name: str, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self.asked.append(("create", name, options))

    def upload_folder(self, **options: Any) -> Any:
        self.asked.append(("upload", options))
        return type("Commit", (), {"commit_url": "https://hub/me/my-net/commit/1"})()


def test_only_its_own_files_are_sent(push: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    done, out = push(vit_run(tmp_path / "run"), "--private")
    assert done.status == 0 and "sent to hf-hub:me/my-net: https://hub/me/my-net/commit/1" in done.out, done.err
    (_, name, how), (_, sent) = hub.asked
    assert name == sent["repo_id"] == "me/my-net" and how == {"private": True, "exist_ok": True}
    assert sorted(sent["allow_patterns"]) == sorted(path.name for path in out.iterdir())
    push(tmp_path / "run")
    assert hub.asked[2][2]["private"] is None, "an organisation's own default holds"


def http_error(status: int, text: str) -> HfHubHTTPError:
    response = type("Response", (), {"headers": {}, "status_code": status, "request": None})()
    return HfHubHTTPError(f"Client error {status}\n(Request ID: 1)", response=response, server_message=text)


@pytest.mark.parametrize("error, said", [
    (LocalTokenNotFoundError("Token is required"), "me/my-net: not logged in to the hub; `hf auth login` does it"),
    (http_error(403, 'no rights under the namespace "me".\nSee settings.'),
     'the hub does not take it: no rights under the namespace "me". See settings.'),
    (ConnectionError("[Errno -2] Name or service\nnot known"), "the hub cannot be reached: [Errno -2] Name or service"),
    (RuntimeError("a client of its own"), "the hub cannot be reached: a client of its own")])
def test_what_the_hub_refuses_is_one_line(push: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          error: Exception, said: str) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub(error))
    done, out = push(vit_run(tmp_path / "run"))
    assert said in done.complaint and (out / "model.safetensors").exists()


def test_the_real_client_without_a_login_says_so(push: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
    assert "not logged in to the hub" in push(vit_run(tmp_path / "run"))[0].complaint


def test_a_missing_library_is_one_line(push: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert "huggingface_hub is not installed: pip install" in push(vit_run(tmp_path / "run"))[0].complaint
