"""What several processes do together, each way of cutting a model and each number of processes."""

from pathlib import Path

import pytest

from distributed import checkpoints, placements, trajectories
from distributed.training import OURS
from distributed.world import Outcome, outcome

_ALWAYS = {**placements.CHECKS, **trajectories.CHECKS, **checkpoints.CHECKS}
# What the first save the second take up.
CHECKS = {
    4: {**_ALWAYS, **trajectories.IN_FOUR, **checkpoints.IN_FOUR},
    2: {**_ALWAYS, **checkpoints.IN_TWO},
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


@pytest.mark.parametrize("form", checkpoints.FORMS)
@pytest.mark.parametrize("name", OURS)
def test_one_process_takes_up_what_two_have_saved(
    name: str, form: str, directory: Path, outcomes: dict[int, Outcome]
) -> None:
    assert f"ours {name} taken up by ours{form}" in outcomes[2].passed
    checkpoints.ends(name, checkpoints.FORMS[form], directory)
