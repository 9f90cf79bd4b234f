"""The noise: known answers, its distribution, and that it is a function of where it is used."""

import numpy as np
import pytest
import torch
from scipy import stats

from thalweg import rules
from thalweg.rules.philox import normal, philox

# The known-answer vectors that Random123 publishes for philox4x32 with 10 rounds.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("array", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(array, counter: list[int], key: list[int], words: list[int]) -> None:
    int64 = np.int64 if array is np.array else torch.int64
    with np.errstate(over="ignore"):
        got = philox(*(array([c], dtype=int64) for c in counter), *key)
    assert [w.item() for w in got] == words


def draws(count: int = 200_000, *, seed: int = 1, t: int = 1, stream: int = 0) -> np.ndarray:
    return normal(np, np.arange(count), seed=seed, t=t, stream=stream)


def test_draws_are_normal() -> None:
    x = draws()
    assert stats.kstest(x, "norm").pvalue > 0.001
    error = 1 / np.sqrt(x.size)
    assert abs(x.mean()) < 4 * error
    assert abs(x.var() - 1) < 4 * error * np.sqrt(2)
    assert abs(stats.skew(x)) < 4 * error * np.sqrt(6)
    assert abs(stats.kurtosis(x)) < 4 * error * np.sqrt(24)


@pytest.mark.parametrize("other", [{"seed": 2}, {"t": 2}, {"stream": 1}], ids=str)
def test_seeds_steps_and_streams_are_independent(other: dict[str, int]) -> None:
    x, y = draws(), draws(**other)
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(x.size)
    assert abs(np.corrcoef(x**2, y**2)[0, 1]) < 4 / np.sqrt(x.size)


def test_neighbours_are_independent() -> None:
    x = draws()
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 4 / np.sqrt(x.size)


def test_an_element_keeps_its_draw_whatever_is_drawn_with_it() -> None:
    np.testing.assert_array_equal(draws(10), draws(1000)[:10])
    far = np.array([2**32 + 5])
    assert normal(np, far, seed=1, t=1, stream=0)[0] != draws(10)[5]


def test_numpy_and_torch_draw_the_same() -> None:
    x = normal(torch, torch.arange(10_000), seed=3, t=7, stream=2)
    assert x.dtype == torch.float64
    np.testing.assert_allclose(x.numpy(), draws(10_000, seed=3, t=7, stream=2), rtol=1e-12)


@pytest.mark.parametrize("t", [1, 5])
def test_eta_is_a_variance(t: int) -> None:
    eta, gamma, count = 4.0, 0.55, 200_000
    noisy = rules.chain(rules.noise(eta=eta, gamma=gamma, seed=9), rules.sgd(lr=1.0))
    theta, _ = noisy.step(np.zeros(count), np.zeros(count), {"t": t - 1})
    expected = eta / (1 + t) ** gamma
    assert abs(theta.var() / expected - 1) < 4 * np.sqrt(2 / count)


def test_every_parameter_has_a_stream_of_its_own() -> None:
    noisy = rules.chain(rules.noise, rules.sgd(lr=1.0))
    zeros = {"a": np.zeros((3, 4)), "b": np.zeros((3, 4))}
    theta, _ = noisy.step(zeros, zeros)
    assert not np.any(theta["a"] == theta["b"])
    alone, _ = noisy.step(np.zeros((3, 4)), np.zeros((3, 4)))
    np.testing.assert_array_equal(theta["a"], alone)
