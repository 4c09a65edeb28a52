"""Names on the hub: through its cache, and one line where that does not help. Nothing here needs a network."""


import shutil
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from cvjax.interop import load_weights, read_state_dict, save_weights
from cvjax.models import create_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = create_model("resnet20", depths=(1, 1, 1))
    variables = model.init(jax.random.key(3), np.zeros((1, 32, 32, 3), np.float32))
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    save_weights(variables, model, path)
    return model, variables, path


def answer(monkeypatch, files: dict) -> list[tuple]:
    """Stand in for the hub: file name -> path, or what is raised; notes what was asked."""
    asked = []

    def download(repository, file, revision=None):
        asked.append((repository, file, revision))
        found = files.get(file, EntryNotFoundError("404"))
        if isinstance(found, Exception):
            raise found
        return str(found)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_a_hub_name_is_a_file(saved, monkeypatch):
    model, variables, path = saved
    asked = answer(monkeypatch, {"model.safetensors": path})
    loaded = load_weights(model, "hf-hub:timm/some_model@v1")
    assert asked == [("timm/some_model", "model.safetensors", "v1"), ("timm/some_model", "config.json", "v1")]
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    assert all(map(np.array_equal, jax.tree.leaves(loaded), jax.tree.leaves(variables)))


def test_an_older_repository_holds_a_pickle(saved, monkeypatch):
    model, _, path = saved
    asked = answer(monkeypatch, {"pytorch_model.bin": path})
    load_weights(model, "hf-hub:timm/some_model")
    assert [file for _, file, _ in asked] == ["model.safetensors", "pytorch_model.bin", "config.json"]


def test_its_pickle_is_read_like_any_other(tmp_path):
    pickle = Path(__file__).parents[1] / "goldens" / "checkpoint.pth"
    shutil.copy(pickle, tmp_path / "pytorch_model.bin")
    assert read_state_dict(tmp_path / "pytorch_model.bin").keys() == read_state_dict(pickle).keys()


def test_offline_the_message_says_so(saved, monkeypatch):
    answer(monkeypatch, {"model.safetensors": LocalEntryNotFoundError("no connection")})
    with pytest.raises(FileNotFoundError, match="^hf-hub:timm/x: not in the hub's cache, and the hub cannot be"):
        load_weights(saved[0], "hf-hub:timm/x")


def test_offline_the_cache_may_have_the_older_file(saved, monkeypatch):
    model, _, path = saved
    files = {"model.safetensors": LocalEntryNotFoundError("no connection"), "pytorch_model.bin": path}
    asked = answer(monkeypatch, files)
    load_weights(model, "hf-hub:timm/x")
    assert [file for _, file, _ in asked] == [*files, "config.json"]


@pytest.mark.parametrize("reason", [EntryNotFoundError("404"), LocalEntryNotFoundError("no connection")])
def test_what_timm_lists_is_said_of_its_weights_that_cannot_be_had(saved, monkeypatch, reason):
    answer(monkeypatch, dict.fromkeys(("model.safetensors", "pytorch_model.bin"), reason))

    def said(name: str) -> str:
        with pytest.raises(FileNotFoundError) as error:
            load_weights(saved[0], f"hf-hub:{name}")
        return str(error.value)

    assert "; timm lists no resnet50.a1_in1kk: did you mean a1_in1k, " in said("timm/resnet50.a1_in1kk")
    assert "; timm lists no resnet50 without a tag: its tags are a1_in1k, " in said("timm/resnet50")
    assert "; timm lists no weights of resnet5O: did you mean resnet50, " in said("timm/resnet5O.a1_in1k")
    assert "timm lists" not in said("timm/resnet50.a1_in1k") + said("somebody/resnet50")


def test_the_real_client_without_a_network_says_the_same(saved, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="hub's cache") as error:
        load_weights(saved[0], "hf-hub:timm/resnet50.a1_in1k")
    assert "\n" not in str(error.value)


def test_names_that_cannot_be_are_refused(saved, monkeypatch):
    asked = answer(monkeypatch, {})
    for name in ("a/b/c", "../../etc", "/etc/passwd", "a/b@../../x"):
        with pytest.raises(FileNotFoundError, match="is no name on the hub") as error:
            load_weights(saved[0], f"hf-hub:{name}")
        assert "\n" not in str(error.value)
    assert not asked  # nothing is looked for in the cache, whose paths are made of names
    answer(monkeypatch, {})
    with pytest.raises(FileNotFoundError, match="holds neither model.safetensors nor pytorch_model.bin"):
        load_weights(saved[0], "hf-hub:timm/empty")


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_weights_in_several_files_are_refused_in_words(saved, monkeypatch, index):
    answer(monkeypatch, {index: "index"})
    with pytest.raises(FileNotFoundError, match=f"^hf-hub:a/b: its weights lie in several files, by {index}, "):
        load_weights(saved[0], "hf-hub:a/b")
