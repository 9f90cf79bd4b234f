"""How good are the learning rates that the range test suggests?

For each optimizer and seed: the suggestions, and the accuracy on the validation data after a few
epochs at the recommended learning rate, at a tenth of it and at ten times as much.

    python benchmarks/lr_suggestions.py fashion-mnist --epochs 3
"""

import argparse

import torch

from thalweg import tasks
from thalweg.optim import CLASSES
from thalweg.training import DivergenceError, train
from thalweg.training.range_test import lr_find

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("task", nargs="?", default="fashion-mnist")
parser.add_argument("--optimizers", default="SGD,Adam,AdamW,RMSprop")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--seeds", type=int, default=3)
given = parser.parse_args()

torch.set_num_threads(1)
torch.set_flush_denormal(True)
task = tasks.load(given.task)
data = task.data()
print(
    "| optimizer | seed | valley | steepest | minimum / 10 | recommended | lr / 10 | lr | 10 lr |"
)
print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
for name in given.optimizers.split(","):
    made = CLASSES[name]
    for seed in range(given.seeds):
        test = lr_find(task, made, seed=seed, data=data)
        cells = [name, str(seed), *(f"{s.lr:.2g}" for s in test.suggestions.values())]
        if test.lr is None:
            print(f"| {name} | {seed} | {test.verdict} |", flush=True)
            continue
        cells.append(f"{test.lr:.2g}")
        for lr in (test.lr / 10, test.lr, test.lr * 10):

            def optimizer(params, lr=lr, made=made):
                return made(params, lr=lr)

            try:
                *_, last = train(task, optimizer, epochs=given.epochs, seed=seed, data=data)
                cells.append(f"{last.metric:.4f}")
            except DivergenceError:
                cells.append("diverged")
        print(f"| {' | '.join(cells)} |", flush=True)
