"""Fashion-MNIST with a plain PyTorch loop over a DataLoader; a peer of fashion_mnist.py."""

import time

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from thalweg.tasks import load

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 1e-3),
    "momentum": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9),
    "nag": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, nesterov=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-3),
    "adadelta": lambda p: torch.optim.Adadelta(p, 1.0, rho=0.95),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, alpha=0.9),
    "adam": lambda p: torch.optim.Adam(p, 1e-3),
    "amsgrad": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True),
    "adamax": lambda p: torch.optim.Adamax(p, 1e-3),
    "nadam": lambda p: torch.optim.NAdam(p, 1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=1e-5),
}


def main() -> None:
    """Train with each optimizer and print how it went."""
    task = load("fashion-mnist")
    data = task.data()
    train = DataLoader(TensorDataset(*data.train), batch_size=32, shuffle=True)
    validation = DataLoader(TensorDataset(*data.validation), batch_size=32)
    for name, make in OPTIMIZERS.items():
        started = time.perf_counter()
        torch.manual_seed(42)
        model = task.model()
        optimizer = make(model.parameters())
        total = right = 0.0
        for _ in range(10):
            total = right = 0.0
            model.train()
            for x, y in train:
                optimizer.zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                total += loss.item() * len(y)
            model.eval()
            with torch.no_grad():
                for x, y in validation:
                    right += (model(x).argmax(1) == y).sum().item()
        print(
            f"torch {torch.__version__} {name}: {time.perf_counter() - started:.1f} s, "
            f"train loss {total / 55000:.4f}, accuracy {right / 5000:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
