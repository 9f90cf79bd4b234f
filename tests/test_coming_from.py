"""The page for those who come from elsewhere: every row has its test, and torch's facts hold."""

import ast
import copy
import inspect
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg.optim import CLASSES
from thalweg.rules import OPTIMIZERS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/coming-from.md").read_text(encoding="utf-8")


def tables() -> dict[str, list[list[str]]]:
    """The cells of each table, a row each, by the heading above it; the first are its columns'."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in PAGE.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith("| ---"):
            found.setdefault(heading, []).append([c.strip() for c in line.strip("|").split("|")])
    return found


TABLES = tables()
ROWS = [(heading, row) for heading, (_, *rows) in TABLES.items() for row in rows]


def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_there_are_rows_for_every_library() -> None:
    kinds = {heading.partition(",")[0] for heading in TABLES}
    assert kinds == {"torch", "Keras", "optax", "timm"}
    assert len(ROWS) > 60


@pytest.mark.parametrize(("heading", "row"), ROWS, ids=lambda x: x if isinstance(x, str) else x[0])
def test_every_row_names_a_test_that_there_is(heading: str, row: list[str]) -> None:
    assert len(row) == len(TABLES[heading][0])
    named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[-1])
    assert named, row[-1]
    assert named[2] in functions(named[1])


def row_of(test: str) -> list[str]:
    (row,) = (row for _, row in ROWS if row[-1].endswith(f"::{test}`"))
    return row


def test_every_optimizer_that_torch_changes_has_a_row() -> None:
    (heading,) = (h for h in TABLES if h.startswith("torch, kept"))
    told = {name for row in TABLES[heading][1:] for name in row[0].split(", ")}
    assert {r.title for r in OPTIMIZERS.values() if r.by_convention("torch")} <= told


def test_what_torch_alone_has() -> None:
    classes = {
        name
        for name, made in vars(torch.optim).items()
        if inspect.isclass(made) and issubclass(made, torch.optim.Optimizer)
    }
    told = row_of("test_what_torch_alone_has")[0]
    assert classes - {*CLASSES, "Optimizer"} == {*re.findall(r"`(\w+)`", told)}


def test_what_is_here_alone() -> None:
    own = {name.lower() for name in CLASSES if not hasattr(torch.optim, name)}
    told = row_of("test_what_is_here_alone")[0].lower()
    assert {*re.findall(r"\w+", told)} - {"and", "as", "classes"} == own


def weight(*shape: int, dtype: torch.dtype | None = None, gradient: float = 1.0) -> Tensor:
    p = torch.ones(shape, dtype=dtype, requires_grad=True)
    p.grad = torch.full_like(p, gradient)
    return p


def test_a_groups_settings_are_checked_here_alone() -> None:
    p = weight(2)
    for made, refuses in ((torch.optim.Adam, nullcontext()), (tw.Adam, refused("lr is -1"))):
        with refuses:
            made([{"params": [p], "lr": -1.0}]).step()
        optimizer = made([p])
        optimizer.param_groups[0]["lr"] = -1.0
        with refuses:
            optimizer.step()


def refused(message: str) -> Any:
    return pytest.raises(tw.UsageError, match=message)


def resumed(made: Callable[..., torch.optim.Optimizer], names: str, dtype: torch.dtype) -> Any:
    """The averages of gradients, by name, of what was saved for `a` and `b` and then loaded."""
    first = made([("a", weight(2)), ("b", weight(2, gradient=2.0))])
    first.step()
    params = {name: weight(2, dtype=dtype) for name in names}
    optimizer = made([*params.items()])
    optimizer.load_state_dict(copy.deepcopy(first.state_dict()))
    return {name: optimizer.state[p]["exp_avg"] for name, p in params.items()}


def test_states_are_loaded_by_order_in_torch() -> None:
    torchs = resumed(torch.optim.Adam, "ba", torch.float32)
    ours = resumed(tw.Adam, "ba", torch.float32)
    assert [round(torchs[name][0].item(), 3) for name in "ab"] == [0.2, 0.1]
    assert [round(ours[name][0].item(), 3) for name in "ab"] == [0.1, 0.2]
    assert [*resumed(torch.optim.Adam, "cd", torch.float32)] == [*"cd"]
    with refused("nothing under the name of the parameter 'c'"):
        resumed(tw.Adam, "cd", torch.float32)


def test_loaded_states_are_cast_in_torch() -> None:
    for made, expected in ((torch.optim.Adam, torch.bfloat16), (tw.Adam, torch.float32)):
        assert resumed(made, "ab", torch.bfloat16)["a"].dtype is expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_half_parameters_are_wider(dtype: torch.dtype) -> None:
    """A running average of squares that keeps 0.999 stands still in bfloat16."""
    kept = {}
    for made in (tw.Adam, torch.optim.Adam):
        p = torch.ones(4, dtype=dtype, requires_grad=True)
        optimizer = made([p], betas=(0.9, 0.999))
        for g in [1.0] * 100 + [0.5] * 400:
            p.grad = torch.full_like(p, g)
            optimizer.step()
        kept[made] = optimizer.state[p]["exp_avg_sq"]
    assert kept[tw.Adam].dtype is torch.float32
    assert kept[torch.optim.Adam].dtype is dtype
    exact = 0.999**400 * (1 - 0.999**100) + 0.25 * (1 - 0.999**400)
    torch.testing.assert_close(kept[tw.Adam], torch.full((4,), exact), rtol=1e-4, atol=0)
    if dtype is torch.bfloat16:
        assert (kept[torch.optim.Adam].float() / exact - 1).abs().min() > 0.1


def table_of_rows(value: float = 1.0) -> Tensor:
    p = torch.full((6, 2), value, requires_grad=True)
    indices, rows = torch.tensor([[1, 4]]), torch.tensor([[0.5, -1.0], [2.0, 0.1]])
    p.grad = torch.sparse_coo_tensor(indices, rows, (6, 2), check_invariants=True)
    return p


def test_a_sparse_gradient_trains_adam_lazily() -> None:
    ours, torchs, dense = table_of_rows(), table_of_rows(), table_of_rows()
    with pytest.raises(RuntimeError, match="does not support sparse"):
        torch.optim.Adam([dense]).step()
    optimizer, lazy = tw.Adam([ours], lr=0.1), torch.optim.SparseAdam([torchs], lr=0.1)
    for _ in range(3):
        optimizer.step()
        lazy.step()
    torch.testing.assert_close(ours, torchs)
    assert ours.ne(1).any(1).tolist() == [False, True, False, False, True, False]
    assert optimizer.backend_of(ours) == "fused"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("SGD", {"weight_decay": 0.1}), ("Adagrad", {"weight_decay": 0.1}), ("RMSprop", {})],
    ids=str,
)
def test_sparse_gradients_that_neither_takes(name: str, arguments: dict) -> None:
    with pytest.raises(RuntimeError):
        getattr(torch.optim, name)([table_of_rows()], **arguments).step()
    with refused("is sparse, and only SGD"):
        CLASSES[name]([table_of_rows()], **arguments).step()


def test_an_infinite_setting_is_refused_here_alone() -> None:
    p = torch.ones(1, requires_grad=True)
    for arguments in ({"lr": float("inf")}, {"eps": float("inf")}):
        torch.optim.Adam([p], **arguments)
        with refused("is inf"):
            tw.Adam([p], **arguments)


def test_a_variance_below_0_is_nan_in_torch_alone() -> None:
    torch.manual_seed(0)
    g, ends = torch.rand(1000), {}
    for made in (tw.RMSprop, torch.optim.RMSprop):
        p = torch.zeros(1000, requires_grad=True)
        optimizer = made([p], lr=1e-3, alpha=0.5, centered=True)
        for _ in range(40):
            p.grad = g.clone()
            optimizer.step()
        ends[made] = p.detach()
    assert ends[tw.RMSprop].isfinite().all()
    assert ends[torch.optim.RMSprop].isnan().any()


def test_nadams_product_of_momenta_is_exact() -> None:
    """torch's is, too, if float64 is the default type."""
    paths = []
    for made, default in (
        (tw.NAdam, torch.float32),
        (torch.optim.NAdam, torch.float32),
        (torch.optim.NAdam, torch.float64),
    ):
        torch.set_default_dtype(default)
        try:
            p = torch.ones(3, dtype=torch.float64, requires_grad=True)
            optimizer = made([p], lr=0.1)
            for t in range(50):
                p.grad = torch.full_like(p, 1.5 - t % 3)
                optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
        paths.append(p.detach())
    ours, single, double = paths
    torch.testing.assert_close(ours, double, rtol=1e-13, atol=1e-13)
    assert (single - double).abs().max() > 1e-10


def test_a_groups_first_sum_of_squares_counts() -> None:
    sums = []
    for made in (tw.Adagrad, torch.optim.Adagrad):
        p = torch.ones(2, requires_grad=True)
        optimizer = made([{"params": [p], "initial_accumulator_value": 0.5}])
        sums.append(optimizer.state[p]["sum"].tolist())
    assert sums == [[0.5, 0.5], [0.0, 0.0]]
