"""What the tasks on CIFAR-10 share: pixels made ready for a network, and augmentation."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

__all__ = ["Pixels", "crop_and_flip", "mirrored_and_shifted"]


class Pixels(nn.Module):
    """Brings CIFAR-10's pixels from 0 to 255 to mean 0 and standard deviation 1 in each channel.

    What comes out is in the order in memory in which convolutions are fastest.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Of the 50,000 images that training and validation are taken from.
        mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
        self.register_buffer("shift", 255 * torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(-1, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32, memory_format=torch.channels_last)
        return (x - self.shift) * self.scale


def crop_and_flip(
    x: Tensor, y: Tensor, generator: torch.Generator, margin: int = 4
) -> tuple[Tensor, Tensor]:
    """Cut each image out of itself with a black margin around it, and mirror it by chance.

    That is, shift it by up to `margin` pixels in both directions, each shift as likely as any
    other, and mirror every other one, as for CIFAR-10 in He et al. 2016, arXiv:1512.03385, 4.2.

    Args:
        x: images, samples x channels x height x width.
        y: their targets, which stay as they are.
        generator: where the randomness comes from.
        margin: in pixels.

    Returns:
        The images, as many and as large as before, and their targets.
    """
    count, channels, height, width = x.shape
    tall, wide = height + 2 * margin, width + 2 * margin

    def draw(below: int, *shape: int) -> Tensor:
        drawn = torch.randint(below, shape, generator=generator, device=generator.device)
        return drawn.to(x.device)

    shifts = draw(2 * margin + 1, 2, count, 1)
    mirrored = draw(2, count, 1).bool()
    across = torch.arange(width, device=x.device)
    rows = shifts[0] + torch.arange(height, device=x.device)
    columns = shifts[1] + torch.where(mirrored, across.flip(0), across)
    first = tall * wide * torch.arange(count, device=x.device)
    places = first.view(-1, 1, 1) + wide * rows.unsqueeze(2) + columns.unsqueeze(1)
    # One index for all channels of a pixel, which thus have to be side by side.
    pixels = pad(x, (margin,) * 4).permute(0, 2, 3, 1).reshape(-1, channels)
    cut = pixels.index_select(0, places.flatten()).view(count, height, width, channels)
    return cut.permute(0, 3, 1, 2), y


def mirrored_and_shifted(x: Tensor) -> Iterator[Tensor]:
    """Six versions of images: as they are and shifted by a pixel to two corners, and mirrored.

    Args:
        x: images, samples x channels x height x width.
    """
    height, width = x.shape[2:]
    padded = pad(x, (1,) * 4)
    for corner in (1, 0, 2):
        shifted = padded[:, :, corner : corner + height, corner : corner + width]
        yield shifted
        yield shifted.flip(3)
