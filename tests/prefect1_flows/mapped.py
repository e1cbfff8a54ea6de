# gives: {"total": 24, "nested": [3, 4], "pairs": ["a1", "b2"]}
from prefect import Flow, apply_map, flatten, mapped, task, unmapped
from prefect.utilities.edges import unmapped as same


@task
def add(x, y):
    return x + y


@task
def total(xs):
    return sum(xs)


@task
def lists():
    return [[1], [2]]


@task(name="nested")
def plus(x, y):
    return x + y


@task(name="pairs")
def pair(a, b):
    return a + str(b)


def both(x):
    return add(x, 1)


with Flow("mapped") as flow:
    xs = add.map([1, 2, 3], y=unmapped(5))
    total(apply_map(both, xs))
    plus.map(flatten(lists()), same(2))
    pair(mapped(["a", "b"]), mapped([1, 2]))
