"""A task of one's own: learn from noisy measurements how far a ball flies."""

import torch
from torch import Tensor, nn

from thalweg.tasks import Data, Task


def data() -> Data:
    # A generator of its own with a fixed seed: every process gets the same samples.
    generator = torch.Generator().manual_seed(0)
    speed = 5 + 20 * torch.rand(1500, 1, generator=generator)  # m/s
    angle = 1.5 * torch.rand(1500, 1, generator=generator)  # radians above the ground
    noise = torch.randn(1500, 1, generator=generator)  # m
    x = torch.cat([speed, angle], dim=1)
    y = speed**2 * torch.sin(2 * angle) / 9.81 + noise
    return Data(train=(x[:1000], y[:1000]), validation=(x[1000:], y[1000:]))


class Net(nn.Module):
    """Two hidden layers between inputs and outputs that are brought to a size of about 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        scaled = (x - torch.tensor([15.0, 0.75])) / torch.tensor([10.0, 0.75])
        return 20 * self.layers(scaled)


def rmse(outputs: Tensor, targets: Tensor) -> Tensor:
    # In metres, so that it can be held against the noise, which is 1 m.
    return (outputs - targets).square().mean().sqrt()


task = Task(
    name="throw",
    data=data,
    model=Net,
    loss=nn.functional.mse_loss,
    metric=rmse,
    metric_name="RMSE in m",
    higher_is_better=False,
    epochs=20,
    batch_size=32,
    target=2.0,
    about="how far a ball flies, 1,000 throws to train on; perceptron 2-32-32-1",
)
