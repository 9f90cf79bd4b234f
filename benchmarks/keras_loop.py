"""Fashion-MNIST with Keras' `fit`, one optimizer after the other; a peer of fashion_mnist.py."""

import gzip
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(1e-3),
    "momentum": lambda: keras.optimizers.SGD(1e-3, momentum=0.9),
    "nag": lambda: keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True),
    "adagrad": lambda: keras.optimizers.Adagrad(1e-3),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0, epsilon=1e-6),
    "rmsprop": lambda: keras.optimizers.RMSprop(1e-3, rho=0.9),
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "amsgrad": lambda: keras.optimizers.Adam(1e-3, amsgrad=True),
    "adamax": lambda: keras.optimizers.Adamax(1e-3),
    "nadam": lambda: keras.optimizers.Nadam(1e-3),
    "adamw": lambda: keras.optimizers.AdamW(1e-3, weight_decay=1e-5),
}


def read(name: str, header: int) -> np.ndarray:
    """The bytes of an idx file after its header."""
    path = Path(os.environ["THALWEG_DATA"], "FashionMNIST", "raw", f"{name}-ubyte.gz")
    return np.frombuffer(gzip.open(path).read(), np.uint8, offset=header)


def main() -> None:
    """Train with each optimizer and print how it went."""
    x = read("train-images-idx3", 16).reshape(-1, 28, 28).astype(np.float32) / 255
    y = read("train-labels-idx1", 8)
    for name, make in OPTIMIZERS.items():
        started = time.perf_counter()
        keras.utils.set_random_seed(42)
        hidden = {"activation": "relu", "kernel_initializer": "he_normal"}
        model = keras.Sequential(
            [
                keras.Input((28, 28)),
                keras.layers.Flatten(),
                *(keras.layers.Dense(100, **hidden) for _ in range(3)),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        model.compile(make(), "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(
            x[:55000],
            y[:55000],
            epochs=10,
            batch_size=32,
            validation_data=(x[55000:], y[55000:]),
            verbose=0,
        ).history
        print(
            f"keras {keras.__version__} {name}: {time.perf_counter() - started:.1f} s, "
            f"train loss {history['loss'][-1]:.4f}, accuracy {history['val_accuracy'][-1]:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
