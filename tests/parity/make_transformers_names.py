"""Write tests/interop/transformers_names.json: `PYTHONPATH=. python tests/parity/make_transformers_names.py`.

For each small network of tests/interop/transformers_names.py: the `config.json` that `save_pretrained` writes, and the
names and shapes in its `model.safetensors`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import safetensors.numpy
import transformers

from tests.interop.transformers_names import CASES, PATH


def saved(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """What is stored of a network."""
    network = getattr(transformers, kind)
    labels = {"id2label": dict(enumerate("abc"))} if "Classification" in kind else {}
    with tempfile.TemporaryDirectory() as folder:
        network(network.config_class(**config, **labels)).save_pretrained(folder)
        content = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        content = {key: value for key, value in content.items() if key != "transformers_version"}
        arrays = safetensors.numpy.load_file(Path(folder) / "model.safetensors")
        return {"config": content, "shapes": {name: list(array.shape) for name, array in sorted(arrays.items())}}


def content() -> dict[str, Any]:
    """All of the file."""
    return {"transformers": transformers.__version__,
            "networks": {case: saved(kind, config) for case, (kind, config, _, _) in CASES.items()}}


if __name__ == "__main__":
    networks = content()
    lines = [f'  {json.dumps(case)}: {json.dumps(network)}' for case, network in networks["networks"].items()]
    PATH.write_text(f'{{"transformers": "{networks["transformers"]}", "networks": {{\n' + ",\n".join(lines) + "\n}}\n",
                    encoding="utf-8")
