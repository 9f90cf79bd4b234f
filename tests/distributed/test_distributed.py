"""What several processes do together, each way of cutting a model and each number of processes."""

from pathlib import Path

import pytest

from distributed import checkpoints, placements, trajectories
from distributed.checkpoints import FORMS
from distributed.world import Outcome, outcome

# What the first save the second take up. Of four, some have nothing of a tensor, cut either way;
# to train in two takes a third of the time.
CHECKS = {
    4: {**placements.CHECKS, **trajectories.IN_FOUR, **checkpoints.IN_FOUR},
    2: {**trajectories.CHECKS, **checkpoints.IN_TWO},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def outcomes(directory: Path) -> dict[int, Outcome]:
    return {size: outcome(size, checks, directory) for size, checks in CHECKS.items()}


@pytest.mark.parametrize(
    ("size", "name"), [(size, name) for size, checks in CHECKS.items() for name in checks]
)
def test_several_processes(size: int, name: str, outcomes: dict[int, Outcome]) -> None:
    assert name in outcomes[size].passed, outcomes[size].error


@pytest.mark.parametrize(
    ("form", "name"), [(form, name) for form, (_, names) in FORMS.items() for name in names]
)
def test_one_process_takes_up_what_two_have_saved(
    name: str, form: str, directory: Path, outcomes: dict[int, Outcome]
) -> None:
    assert f"ours {name} taken up by ours{form}" in outcomes[2].passed
    checkpoints.ends(name, FORMS[form][0], directory)
