"""Who is convicted of killing workers."""

from __future__ import annotations

import random

import pytest

from anabranch.engine.machine.verdicts import Verdicts


def test_what_dies_alone_as_often_as_the_budget_says_is_guilty() -> None:
    verdicts = Verdicts(3)

    convicted = [verdicts.died("poison", 0.5) for _ in range(3)]

    assert convicted == [False, False, True]
    assert verdicts.deaths("poison") == 3


def test_what_succeeds_is_innocent_of_its_deaths() -> None:
    verdicts = Verdicts(3)
    verdicts.died("long", 1.0)
    verdicts.died("long", 1.0)

    verdicts.survived("long", 1.5)

    assert verdicts.deaths("long") == 0
    assert not verdicts.died("long", 1.0)


def test_where_the_innocent_die_more_patience_is_needed_to_convict() -> None:
    verdicts = Verdicts(3)
    for number in range(20):
        verdicts.died(number, 1.0)
        verdicts.survived(number, 1.0)

    convicted = [verdicts.died("unlucky", 1.0) for _ in range(6)]

    assert verdicts.deaths_per_s == pytest.approx(0.5)
    assert not any(convicted)


def test_a_death_at_once_convicts_even_where_others_die_of_old_age() -> None:
    verdicts = Verdicts(3)
    for number in range(20):
        verdicts.died(number, 1.0)
        verdicts.survived(number, 1.0)

    convicted = [verdicts.died("poison", 0.001) for _ in range(3)]

    assert convicted[-1]


def test_nothing_is_tried_for_ever() -> None:
    verdicts = Verdicts(2)
    verdicts.died("other", 1e-9)
    verdicts.survived("other", 1e-9)

    deaths = next(n for n in range(1, 1000) if verdicts.died("unlucky", 1e9))

    assert deaths == 20


def test_on_a_dying_cluster_hardly_an_innocent_is_convicted() -> None:
    convicted = 0
    for seed in range(20):
        chance, verdicts = random.Random(seed), Verdicts(4)
        for name in range(100):
            while chance.random() < 0.35:  # as with tasks of 1.5 s where a worker of two is killed every two seconds
                if verdicts.died(name, chance.uniform(0, 1.5)):
                    convicted += 1
                    break
            else:
                verdicts.survived(name, 1.5)

    # Only before any innocent has died and succeeded is there nothing to measure by; the budget alone: about 30.
    assert convicted <= 1
