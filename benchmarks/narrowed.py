"""A smaller version of a convolutional network, for what would take too long with all of it."""

import torch
from torch import nn

__all__ = ["narrowed"]


def narrowed(network: nn.Module, divisor: int, inputs: int = 3) -> nn.Module:
    """The network with new weights and fewer channels everywhere but in its input and output.

    Args:
        network: of 3 x 3 convolutions without bias, batch normalization and one linear layer.
        divisor: by which the number of channels is divided.
        inputs: channels of the input.
    """

    def fewer(channels: int) -> int:
        return channels if channels == inputs else channels // divisor

    for parent in [m for m in network.modules() if divisor > 1 and any(m.children())]:
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d):
                ends = fewer(layer.in_channels), fewer(layer.out_channels)
                new = nn.Conv2d(*ends, 3, padding=1, bias=False)
            elif isinstance(layer, nn.BatchNorm2d):
                new = nn.BatchNorm2d(fewer(layer.num_features))
            elif isinstance(layer, nn.Linear):
                new = nn.Linear(fewer(layer.in_features), layer.out_features)
            else:
                continue
            setattr(parent, name, new)
    return network.to(memory_format=torch.channels_last)
