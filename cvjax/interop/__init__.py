"""Published weights in and out: safetensors and torch files, without torch."""

from cvjax.interop.pretrained import Pretrained, create_pretrained
from cvjax.interop.published import Published, open_published
from cvjax.interop.state_dict import read_state_dict
from cvjax.interop.weights import load_weights, save_weights, to_state_dict

__all__ = ["Pretrained", "Published", "create_pretrained", "load_weights",
           "open_published", "read_state_dict", "save_weights", "to_state_dict"]
