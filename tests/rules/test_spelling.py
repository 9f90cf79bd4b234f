"""Rules written in one word."""

import pytest

from thalweg import rules
from thalweg.errors import UsageError
from thalweg.rules import OPTIMIZERS, chain
from thalweg.rules.spelling import parsed, spelled

SPELLED = {
    "adam": rules.adam,
    "sgd:lr=0.1": rules.sgd(lr=0.1),
    "adam:lr=1e-3:beta1=.5": rules.adam(lr=1e-3, beta1=0.5),
    "aggmo:betas=0/0.5/0.9": rules.aggmo(betas=(0, 0.5, 0.9)),
    "aggmo:betas=0.9": rules.aggmo(betas=(0.9,)),
    "nag:lookahead=true": rules.nag(lookahead=True),
    "rmsprop:centered=False": rules.rmsprop(centered=False),
    "adamax:eps_in=gradient": rules.adamax(eps_in="gradient"),
    "l2:weight_decay=1e-4+adam": chain(rules.l2(1e-4), rules.adam),
    " noise:seed=7 + momentum:gamma=0.5 ": chain(rules.noise(seed=7), rules.momentum(gamma=0.5)),
    "l2+adam+decay:weight_decay=0.1": chain(rules.l2, rules.adam, rules.decay(0.1)),
}


@pytest.mark.parametrize(("text", "meant"), SPELLED.items(), ids=str)
def test_what_a_spelling_means(text: str, meant: rules.Rule) -> None:
    found = parsed(text)
    assert [link.name for link in found.links] == [link.name for link in meant.links]
    assert found.settings("keras") == meant.settings("keras")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_rule_has_its_name(name: str) -> None:
    assert parsed(name).links == OPTIMIZERS[name].links
    assert parsed(name).settings() == OPTIMIZERS[name].settings()


@pytest.mark.parametrize("text", [*SPELLED, *OPTIMIZERS, "noise:gamma=0.2+momentum", "sgd:lr=1e+1"])
def test_a_rule_is_put_in_words_that_mean_it(text: str) -> None:
    meant = parsed(text)
    words = spelled(meant)
    assert words is not None
    assert parsed(words).links == meant.links
    assert parsed(words).settings("torch") == meant.settings("torch")


def test_what_no_words_mean() -> None:
    # AdamW's own conventions are lost in a chain of its links.
    assert spelled(chain(rules.l2, rules.adamw)) is None


WRONG = {
    "": "unknown optimizer ''",
    "admam": "Did you mean adam",
    "adam+": "unknown optimizer ''",
    "adam:lr": "'lr' in 'adam:lr' must be written as setting=value",
    "adam:beta=1": "setting of adam 'beta'. Did you mean beta",
    "adam:lr=-1": r"lr is -1.0, but must be a number in \[0, inf\)",
    "adam:lr=abc": "lr is 'abc', but must be a number",
    "adam:lr=nan": "lr is nan, but must be a number",
    "aggmo:betas=": r"betas is \(''",
    "nag:lookahead=yes": "lookahead is 'yes', but must be False or True",
    "adamax:eps_in=x": "eps_in is 'x', but must be 'nowhere'",
    "l2": r"^'l2' has no optimizer.*'l2\+sgd'",
    "l2+decay": r"^'l2\+decay' has no optimizer",
    "sgd+adam": "2 rules among its stages",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=str)
def test_mistakes_are_explained(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parsed(text)
