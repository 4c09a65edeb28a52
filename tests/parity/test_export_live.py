"""Exported parameters in timm, as the text beside them says."""

import json
import re

import jax
import numpy as np
import pytest

from cvjax.data.preprocessing import Preprocessing
from cvjax.models import create_model
from cvjax.workflow.classification.goal import Classification
from cvjax.workflow.classification.model import Classifier
from cvjax.workflow.export.folder import write_export
from cvjax.workflow.export.program import program_of
from tests.experiments.exported import drawn

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_timm_makes_the_model_from_the_folder(name, tmp_path):
    torch = pytest.importorskip("torch")
    import torchvision_operators  # noqa: F401  # isort: skip
    import timm

    model = create_model(name, num_classes=3, image_size=64)
    classifier = Classifier(model, drawn(model, 64, 3), 64, 3, Preprocessing(crop=0.9), Classification(("a", "b", "c")))
    program = program_of(classifier, pixels=False)
    write_export(tmp_path / "out", program, "safetensors", None)
    text = (tmp_path / "out/how_to_load.md").read_text()
    said = re.search(r"`timm\.create_model\(\"local-dir:FOLDER\", (.*?)\)`", text)
    options = dict(word.split("=") for word in said[1].split(", "))
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", **{key: json.loads(value.lower())
                                                                   for key, value in options.items()}).eval()
    assert theirs.pretrained_cfg["crop_pct"] == 0.9 and theirs.num_classes == 3
    images = np.float32(np.random.default_rng(0).standard_normal((2, 64, 64, 3)))
    with torch.no_grad():
        found = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    expected = np.asarray(jax.jit(program)(images)["logits"])
    # float32 sums in another order, as in the other comparisons of outputs
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
