"""Who leads and who ties: against plain t tests, invariances, and studies of a known truth."""

import numpy as np
import pytest
from scipy import stats

from thalweg.errors import UsageError
from thalweg.lab.stats import Contest, compare, noise, paired

NAN = np.nan
# Seeds differ much more than contestants do, which only pairing sees through.
HARD = np.array([5.0, 9.0, 7.0, 6.0, 2.0])
JITTER = np.array(
    [
        [0.01, -0.02, 0.00, 0.02, -0.01],
        [-0.02, 0.01, 0.01, -0.01, 0.01],
        [0.00, 0.01, -0.02, -0.01, 0.02],
        [0.02, -0.01, 0.01, 0.00, -0.02],
        [-0.01, 0.00, 0.02, 0.01, -0.02],
    ]
)
CLEAR = HARD + JITTER + np.array([[0.2], [0.9], [0.21], [0.88], [0.5]])


def table(contest: Contest) -> np.ndarray:
    return np.array([contest.differences, contest.low, contest.high, contest.p])


def test_ranking_and_groups():
    contest = compare(CLEAR)
    assert contest.order == (1, 3, 4, 2, 0)
    assert contest.leader == 1
    assert contest.ties == (1, 3)
    assert contest.groups == ((1, 3), (4,), (2, 0))
    assert contest.means == pytest.approx(CLEAR.mean(1))
    assert contest.spreads == pytest.approx(CLEAR.std(1, ddof=1))
    assert contest.differences == pytest.approx(CLEAR.mean(1)[:, None] - CLEAR.mean(1))
    assert contest.why == ""


def test_tables_are_antisymmetric_and_verdicts_symmetric():
    contest = compare(CLEAR)
    off = ~np.eye(5, dtype=bool)
    assert contest.low[off] == pytest.approx(-contest.high.T[off])
    assert (contest.low < contest.differences)[off].all()
    assert (contest.p == contest.p.T)[off].all()
    assert np.isnan(contest.p.diagonal()).all()
    assert not contest.differs.diagonal().any()


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_two_contestants_are_compared_by_the_paired_t_test(level: float):
    y = HARD + JITTER[:2]
    contest = compare(y, level)
    alone = paired(y[0] - y[1], level)
    assert (contest.low[0, 1], contest.high[0, 1]) == pytest.approx((alone.low, alone.high))
    assert contest.p[0, 1] == pytest.approx(stats.ttest_rel(y[0], y[1]).pvalue)


def test_a_third_contestant_costs_two_some_certainty_and_many_seeds_little():
    random = np.random.default_rng(0)
    y = random.normal(size=(3, 200))
    contest, t = compare(y), paired(y[0] - y[1])
    # For many seeds the interval is that of Tukey's studentized range.
    factor = stats.studentized_range.ppf(0.95, 3, np.inf) / 2**0.5 / stats.norm.ppf(0.975)
    width = (contest.high - contest.low)[0, 1] / (t.high - t.low)
    assert width == pytest.approx(factor, rel=0.03)


def test_one_noisy_contestant_is_as_uncertain_as_its_own_runs_say():
    random = np.random.default_rng(0)
    y = random.normal(size=(5, 40)) * [[1], [1], [1], [1], [10]]
    contest = compare(y)
    # All its differences are its own noise, so that they are about one comparison, not four.
    for other in range(4):
        t = paired(y[4] - y[other])
        width = contest.high[4, other] - contest.low[4, other]
        assert width == pytest.approx(t.high - t.low, rel=0.15)


@pytest.mark.parametrize("change", [lambda y: 3 + 0.01 * y, lambda y: y - HARD])
def test_unit_origin_and_seeds_do_not_matter(change):
    before, after = compare(CLEAR), compare(change(CLEAR))
    unit = (change(CLEAR)[1] - change(CLEAR)[0]).sum() / (CLEAR[1] - CLEAR[0]).sum()
    assert table(after)[:3] == pytest.approx(unit * table(before)[:3], nan_ok=True)
    assert table(after)[3] == pytest.approx(table(before)[3], nan_ok=True)


def test_order_of_contestants_matters_by_chance_alone():
    turned = compare(CLEAR[::-1])
    assert turned.order == tuple(4 - i for i in compare(CLEAR).order)
    widths = [c.high - c.low for c in (compare(CLEAR), turned)]
    assert widths[1][::-1, ::-1] == pytest.approx(widths[0], rel=0.05, nan_ok=True)


def test_the_same_seed_gives_the_same_table():
    assert table(compare(CLEAR)) == pytest.approx(table(compare(CLEAR)), rel=0, nan_ok=True)


def test_groups_may_overlap():
    # 0 and 2 are told apart, and 1, between them, from neither.
    y = HARD + 1.2 * JITTER[:3] + np.array([[0.06], [0.03], [0.0]])
    contest = compare(y)
    assert contest.groups == ((0, 1), (1, 2))
    assert contest.ties == (0, 1)


def test_equal_contestants_are_one_group():
    y = HARD + np.concatenate([JITTER, JITTER])
    contest = compare(y)
    assert contest.groups == (contest.order,)
    assert contest.differences[0, 5] == 0


def test_lost_runs():
    y = CLEAR.copy()
    y[1, 4] = NAN
    y[2, :3] = NAN
    y[4] = NAN
    contest = compare(y)
    assert contest.finished.tolist() == [5, 4, 2, 5, 0]
    # By its mean, which is of easy seeds alone, 1 leads; the difference is of the seeds they share.
    assert contest.order == (1, 3, 0, 2)
    assert contest.differences[1, 3] == pytest.approx((y[1, :4] - y[3, :4]).mean())
    assert contest.groups == ((1, 3), (0,))
    assert np.isnan(contest.low[2]).all()
    assert np.isnan(contest.p[2]).all()
    assert np.isnan(contest.differences[4]).all()
    assert "fewer than 3 finished seeds" in contest.why


def test_variances_that_do_not_add_up():
    # Of the few seeds that pairs share here, some contestants come out with less noise than none.
    y = [
        [-0.5, -0.4, 0.7, -2.5, -1.0],
        [NAN, -0.3, NAN, -0.7, -0.3],
        [0.6, -1.6, NAN, 1.6, NAN],
        [-0.6, NAN, NAN, -0.0, -2.0],
        [1.1, 0.4, -0.4, NAN, 1.1],
        [0.3, -0.2, NAN, 1.0, NAN],
    ]
    contest = compare(y)
    judged = np.isfinite(contest.low)
    assert judged[0, 1:].all()
    assert (np.isfinite(contest.p) == judged).all()


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_give_a_ranking_and_no_verdict(seeds: int):
    contest = compare(CLEAR[:, :seeds])
    assert len(contest.order) == 5
    assert contest.ties == (contest.leader,)
    assert contest.groups == ()
    assert np.isnan(contest.low).all()
    assert "fewer than 3 finished seeds" in contest.why


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_no_noise_and_no_verdict(apart: float):
    # Differences that are equal but for rounding.
    contest = compare(HARD / 7 + apart * np.array([[0.1], [0.3], [0.7]]))
    assert not contest.differs.any()
    assert contest.groups == ()
    assert "all seeds gave the same differences" in contest.why


def test_small_noise_beside_a_large_effect_of_seeds():
    table_of = [table(compare(CLEAR - HARD + far * HARD)) for far in (0, 1e5)]
    assert table_of[1] == pytest.approx(table_of[0], rel=1e-3, nan_ok=True)


def test_one_contestant_and_none():
    alone = compare([[1.0, 2.0, 3.0]])
    assert (alone.order, alone.ties, alone.groups, alone.why) == ((0,), (0,), (), "")
    lost = compare(np.full((2, 3), NAN))
    assert (lost.order, lost.leader, lost.ties, lost.groups) == ((), None, (), ())


@pytest.mark.parametrize("bad", [[1.0, 2.0], [[1.0, np.inf]]])
def test_a_table_is_wanted(bad: list):
    with pytest.raises(UsageError, match="contestants x seeds"):
        compare(bad)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(noise, "RESAMPLES", 300)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("scales", [[1] * 8, [1, 1, 1, 1, 1, 1, 1, 5]])
def test_ties_and_intervals_over_many_studies(scales: list[float]):
    random = np.random.default_rng(1)
    studies = 300
    different = held = 0
    for study in range(studies):
        y = random.normal(size=(8, 5)) * np.array(scales)[:, None] + random.normal(0, 3, 5)
        contest = compare(y, seed=study)
        different += contest.differs.any()
        held += not (np.nan_to_num(contest.low, nan=-1) > 0).any()
    # One standard error is 1.3%; plain t tests would call a tie different in most studies.
    assert different / studies <= 0.05 + 0.026
    assert held / studies == pytest.approx(0.95, abs=0.03)


@pytest.mark.usefixtures("quick")
def test_differences_are_found():
    random = np.random.default_rng(2)
    better = np.where(np.arange(12) < 6, 0.0, 4.0)
    found, plainly = [], []
    for study in range(20):
        y = random.normal(size=(12, 5)) + better[:, None]
        contest = compare(y, seed=study)
        found.append(contest.differs[:6, 6:].mean())
        p = stats.ttest_rel(y[:6, None], y[None, 6:], axis=-1).pvalue
        plainly.append((p < 0.05 / 66).mean())
    assert np.mean(found) > 0.85
    assert np.mean(plainly) < 0.4
