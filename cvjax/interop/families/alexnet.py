"""AlexNet's names: torchvision's places in a sequence, and Caffe's, which are ours, for the grouped network."""

from cvjax.interop.families.registry import register
from cvjax.interop.naming import TORCH, Family, Naming, Rule, after_flattening
from cvjax.models.alexnet import AlexNet

PLACES = {"conv1": "features/0", "conv2": "features/3", "conv3": "features/6", "conv4": "features/8",
          "conv5": "features/10", "fc6": "classifier/1", "fc7": "classifier/4", "fc8": "classifier/6"}
FLATTENED = after_flattening(6, 6)

TORCHVISION = Naming((Rule(r"classifier/1/kernel", "classifier/1/weight", FLATTENED), *TORCH), tuple(PLACES.items()))
CAFFE = Naming((Rule(r"fc6/kernel", "fc6/weight", FLATTENED), *TORCH))


def alexnet(model: AlexNet) -> Family:
    """The table of a model: torchvision publishes only the network of 2014, Caffe that of 2012."""
    head = r"(fc8|classifier\.6)\..+"
    namings = {"torchvision": TORCHVISION} if model.groups == 1 else {"caffe": CAFFE}
    return Family(namings=namings, fresh=head, ignored=head)


register(AlexNet, alexnet)
