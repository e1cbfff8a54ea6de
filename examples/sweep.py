"""Search settings for a model, and stop as soon as one is good enough: a map that ends early.

    python examples/sweep.py
    python examples/sweep.py --enough 3.0              # there is none: all are tried
    anabranch run examples/sweep.py --seed 7

The model guesses the next character of a Python program from the characters before it. It is trained on some files of
the standard library, and tested on others by the number of bits that it needs for a character: 8 without any model. Its
settings (how many characters it looks at, the weight of unseen ones, how much it reads) make a grid, which is tried in
random order. With `stop_when`, the first good setting ends the map: what has not begun is skipped, and the join gets
what there is.
"""

import argparse
import itertools
import math
import random
import sysconfig
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from anabranch import Flow, Parameter, task, unmapped
from anabranch.executors import DaskExecutor

ALPHABET = 100  # characters that Python programs are written with, about


@task
def texts() -> tuple[str, str]:
    """Programs to learn from, and others to test on."""
    library = Path(sysconfig.get_paths()["stdlib"])
    programs = [path.read_text(encoding="utf-8") for path in sorted(library.glob("*.py"))]
    return "".join(programs[0::2])[:800_000], "".join(programs[1::2])[:30_000]


@task
def grid(seed: int) -> list[dict]:
    """Every combination of settings, in random order."""
    known = {"order": [0, 1, 2, 3, 4, 5], "weight": [0.001, 0.01, 0.1, 1.0], "read": [50_000, 200_000, 800_000]}
    settings = [dict(zip(known, values, strict=True)) for values in itertools.product(*known.values())]
    random.Random(seed).shuffle(settings)
    return settings


# Each trial is a Dask task of its own (`chunksize=1`), so fewer begin in vain than in chunks.
@task(stop_when=lambda trial: trial["bits"] <= trial["enough"], chunksize=1)
def attempt(setting: dict, programs: tuple[str, str], enough: float) -> dict:
    """The setting, and what a character then costs the model."""
    order, weight = setting["order"], setting["weight"]
    learnt, judged = programs[0][: setting["read"]], programs[1]
    pairs = Counter(learnt[i : i + order + 1] for i in range(len(learnt) - order))
    contexts = Counter(learnt[i : i + order] for i in range(len(learnt) - order))
    bits = 0.0
    for i in range(order, len(judged)):
        seen, total = pairs[judged[i - order : i + 1]], contexts[judged[i - order : i]]
        bits -= math.log2((seen + weight) / (total + ALPHABET * weight))
    return {**setting, "bits": round(bits / (len(judged) - order), 3), "enough": enough}


@task
def best(trials: list[dict | None]) -> dict:
    """The best of the trials that ran."""
    return min((trial for trial in trials if trial is not None), key=lambda trial: trial["bits"])


with Flow("sweep") as flow:
    enough = Parameter("enough", default=3.2, type=float)
    seed = Parameter("seed", default=0, type=int)
    trials = attempt.map(grid(seed), unmapped(texts()), unmapped(enough))
    winner = best(trials)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow, and print the trials. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--enough", type=float, default=3.2, help="bits a character at which to stop (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which settings are tried (%(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler; default: a cluster of this machine's cores")
    given = parser.parse_args(arguments)

    state = flow.run(executor=DaskExecutor(given.address), enough=given.enough, seed=given.seed, keep=[trials])
    if not state.is_successful():
        return state.message
    made = [each.result for each in state.result[trials].map_states if not each.is_skipped()]
    print(" order  weight    read    bits")
    for trial in made:
        bar = "█" * round(6 * trial["bits"])
        print(f"{trial['order']:6} {trial['weight']:7} {trial['read']:7,} {trial['bits']:7.3f} {bar}")
    width, found = len(state.result[trials].map_states), state.result[winner].result
    print(f"\n{len(made)} of {width} settings were tried. The best: {found['bits']} bits a character.")
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
