"""The tables of layers, and the calculations made from them."""

import pytest

from cvjax.interop.coverage import coverage
from cvjax.models import create_model
from cvjax.models.vit import VisionTransformer
from cvjax.timm_weights import timm_weights
from tests.interop.test_coverage import QUICK
from tests.models.test_registry import COUNTS


def test_a_table_of_layers_with_known_totals(command):
    done = command("inspect", "resnet18")
    assert done.status == 0 and done.out.startswith("resnet18: ResNet on 224x224x3\n"), done.err
    assert "11,689,512" in done.out, "the parameters that everyone counts"
    lines = [line for line in done.out.splitlines() if line.split()[:1] == ["conv1"]]
    assert len(lines) == 1 and "9,408" in lines[0]


def test_fields_and_sizes_change_it(command):
    done = command("inspect", "resnet20", "--image-size", 8, "--in-channels", 1, "--num-classes", 5, "--model-fields",
                   "depths=(1,)", "width=8")
    assert done.out.startswith("resnet20: ResNet on 8x8x1\n")
    # Two 3x3 convolutions of 8 channels after one of 1, three norms, and 5 classes with biases.
    assert f"{9 * 8 + 2 * 9 * 64 + 3 * 16 + 8 * 5 + 5:,}" in done.out


@pytest.mark.parametrize("word, said", [
    ("mae_nonsense", "unknown model 'mae_nonsense'"), ("mae_vit_base_patch16", "such as vit_base_patch16_224"),
    ("resnet50.foo", "the model is resnet50, and timm lists no resnet50.foo: its tags are a1_in1k"),
    ("hf-hub:timm/resnet50.a1_in1k", "the model is resnet50, and hf-hub:timm/resnet50.a1_in1k are weights of it"),
    ("efficientnet_b0", "timm has it"), ("", "timm has none of that name"),
])
def test_words_that_are_no_model_are_one_line(command, word: str, said: str):
    done = command("inspect", word)
    assert done.status != 0 and said in done.err and len(done.err.strip().splitlines()) == 1


def test_one_row_for_each_model(command, monkeypatch):
    import experiments.wiring.inspect as wiring

    monkeypatch.setattr(wiring, "list_models", lambda: ["linear", "mae_vit_tiny_patch16", "resnet20"])
    rows = [line.split() for line in command("inspect", "--all").out.splitlines()]
    assert [row[0] for row in rows] == ["model", "linear", "resnet20"]
    assert rows[1][1:] == [f"{32 * 32 * 3 * 10 + 10:,}", f"{32 * 32 * 3 * 10:,}", "32x32x3"]
    assert rows[2][1] == "269,722"  # He et al., table 6: 0.27 million


# One of each form; the many ResNets, ConvNeXts and ViTs would take minutes.
VITS = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2",
        "vit_xsmall_patch16_clip_224", "vit_base_patch32_siglip_256", "vit_wee_patch16_reg1_gap_256")


@pytest.mark.slow
def test_every_model_there_is(command, monkeypatch):
    import experiments.wiring.inspect as wiring

    names = [name for name in wiring.list_models()
             if name in (*VITS, *QUICK) or name not in timm_weights()
             and not isinstance(create_model(name), VisionTransformer)]
    monkeypatch.setattr(wiring, "list_models", lambda: names)
    done = command("inspect", "--all")
    assert done.status == 0, done.err
    rows = dict(line.split()[:2] for line in done.out.splitlines()[1:])
    assert list(rows) == [name for name in names if not name.startswith("mae_")]
    few = (*VITS, *QUICK)
    assert {name: rows[name] for name in few} == {name: f"{COUNTS[name]:,}" for name in few}


def test_weights_of_timm_are_counted_by_what_is_compared(command, monkeypatch):
    import experiments.wiring.inspect as wiring

    known = ("vit_tiny_patch16_224", "resnet10t", "resnet18")
    listed = {name: timm_weights()[name] for name in (*known, "resnetrs50", "efficientnet_b0")}
    listed["resnet18"] = listed["resnet18"]._replace(fingerprint="of another network")
    monkeypatch.setattr("cvjax.interop.coverage.timm_weights", lambda: listed)
    monkeypatch.setattr(wiring, "coverage", lambda: coverage(known))
    done = command("inspect", "--coverage")
    assert done.status == 0, done.err
    rows = {line.split()[0]: line.split()[-2:] for line in done.out.splitlines() if line.strip()}
    tags = {name: len(entry.tags) for name, entry in listed.items()}
    vit, all_tags = tags["vit_tiny_patch16_224"], sum(tags.values())
    assert rows["vision_transformer"] == [f"{vit}", f"{vit}"]
    assert rows["resnet"] == [f"{tags['resnet10t'] + tags['resnet18'] + tags['resnetrs50']}", f"{tags['resnet10t']}"]
    assert rows["1"] == [f"{tags['efficientnet_b0']}", "0"] and rows["all"] == [
        f"{all_tags}", f"{vit + tags['resnet10t']}"]
    assert "resnet, what is not here: resnetrs50" in done.out
    assert "resnet, what HAS OTHER PARAMETERS: resnet18" in done.out


def test_the_lectures_arithmetic(command):
    out = command("inspect", "--arithmetic").out
    assert "177,209,344" in out and "37,748,736" in out  # 13 * 13 * 256 * 4096 and 6 * 6 * 256 * 4096
    assert "receptive field 5 and 5; with 64 channels 73,728 and 102,400 weights" in out
    assert "15,872 weights, 153,600 without its 1x1" in out and "69,632 weights, 1,179,648 for two 3x3" in out
    assert "11 x 11 x 3 x 96" in out and "34,848" in out


@pytest.mark.parametrize("arguments, message", [
    ("", "give one of NAME, --all, --arithmetic or --coverage"), ("resnet18 --all", "give one of NAME, --all, --arit"),
    ("resnet19", "unknown model 'resnet19': did you mean resnet"),
    ("mae_vit_base_patch16", "inspect its encoder, such as vit_base_patch16_224"),
    ("resnet18 --model-fields wide=3", "resnet18 has no field wide; it has "),
    ("resnet18 --model-fields width", "--model-fields width: it must be NAME=VALUE"),
    ("resnet18 --model-fields depths=3", "--model resnet18 on images of 224x224x3: 'int' object is not iterable"),
    ("resnet18 --image-size 0", "--model resnet18 on images of 0x0x3: "),
    ("resnet18 --image-size -1", "--model resnet18 on images of -1x-1x3: "),
    ("alexnet --image-size 8", "--model alexnet on images of 8x8x3: images of 8x8 pixels are too small"),
    ("vit_base_patch16_224 --image-size 100", "image of 100x100 pixels cannot be cut into patches of 16"),
])
def test_a_mistake_is_one_line(command, arguments, message):
    assert message in command("inspect", *arguments.split()).complaint
