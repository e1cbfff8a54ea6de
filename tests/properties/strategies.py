"""Hypothesis strategies for descriptions of flows."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from tests import descriptions as d

QUIET = ("number", "small", "list", "nested", "none", "iterator", "second attempt", "LOOP", "SUCCESS", "RETRY")
WITHOUT_RETRIES = tuple(act for act in d.ACTS if act not in d.NEEDS_RETRIES)

numbers = st.integers(0, 40)
refs = st.builds(d.Ref, numbers)


def behaviours(acts: tuple[str, ...]) -> st.SearchStrategy[d.Behaviour]:
    """Tasks that mostly do the same thing, and now and then something else."""
    chosen = st.lists(st.sampled_from(acts), min_size=1, max_size=4).map(tuple)
    return st.builds(d.Behaviour, chosen, st.integers(0, 50))


@st.composite
def tasks(draw: st.DrawFn, *, delays: tuple[float, ...] = (0.0,)) -> d.TaskSpec:
    """A task whose other options are the usual ones more often than not."""
    retries = draw(st.sampled_from([0, 0, 0, 1, 2]))
    usual = draw(st.booleans())
    if draw(st.integers(0, 3)) == 0:
        acts = (*draw(st.lists(st.sampled_from(d.DEFERRING), min_size=1, max_size=3)), "number")
        return d.TaskSpec(
            d.Behaviour(acts, draw(st.integers(0, 50))),
            trigger="all_successful" if usual else draw(st.sampled_from(list(d.TRIGGERS))),
            retries=retries,
            chunksize=draw(st.sampled_from(["auto", "auto", 1, 2])),
        )
    acts = QUIET if usual else tuple(d.ACTS) if retries else WITHOUT_RETRIES
    return d.TaskSpec(
        draw(behaviours(acts)),
        trigger="all_successful" if usual else draw(st.sampled_from(list(d.TRIGGERS))),
        skip_on_upstream_skip=draw(st.sampled_from([True, True, True, False])),
        retries=retries,
        delay_s=draw(st.sampled_from(delays)) if retries else 0.0,
        chunksize=draw(st.sampled_from(["auto", "auto", 1, 2, 7])),
    )


def calls(spec: st.SearchStrategy[d.TaskSpec], *, in_apply_map: bool = False) -> st.SearchStrategy[d.Call]:
    """A single task."""
    sources = refs | refs | st.builds(d.Flat, numbers) | numbers
    if not in_apply_map:  # collections that hold an element are refused there
        sources |= st.builds(d.Listed, st.lists(refs | numbers, max_size=3).map(tuple))
    return st.builds(d.Call, spec, st.lists(sources, max_size=3).map(tuple), afters)


afters = st.just(()) | st.lists(numbers, max_size=2).map(tuple)
constants = st.lists(numbers, max_size=6).map(tuple)
to_map_over = refs | refs | constants | st.builds(d.Flat, numbers) | st.builds(
    d.Listed, st.lists(refs | numbers, min_size=1, max_size=3).map(tuple)
)  # fmt: skip
wholes: st.SearchStrategy[d.Whole] = st.builds(d.Whole, refs | numbers | constants)


def maps(spec: st.SearchStrategy[d.TaskSpec]) -> st.SearchStrategy[d.Map]:
    """A mapped task."""
    return st.builds(d.Map, spec, to_map_over, st.lists(wholes | to_map_over, max_size=2).map(tuple), afters)


def statements(*, delays: tuple[float, ...] = (0.0,)) -> st.SearchStrategy[d.Statement]:
    """Anything that can be written in a flow."""
    spec = tasks(delays=delays)
    values: st.SearchStrategy[Any] = st.sampled_from([0, 1, 2, d.is_even])
    merges = st.builds(d.Merge, st.lists(numbers, min_size=1, max_size=3).map(tuple))

    def simple(single: st.SearchStrategy[d.Call]) -> st.SearchStrategy[d.Statement]:
        return single | single | merges | st.builds(d.IfElse, numbers, single, single)

    def blocks(
        single: st.SearchStrategy[d.Call], inner: st.SearchStrategy[d.Statement]
    ) -> st.SearchStrategy[d.Statement]:
        # A block in which no task is written is refused.
        body = st.builds(lambda first, rest: (first, *rest), single, st.lists(inner, max_size=2))
        switches = st.builds(d.Switch, numbers, st.lists(body, min_size=1, max_size=2).map(tuple), st.none() | body)
        return st.builds(d.Case, numbers, values, body) | switches

    inside = calls(spec, in_apply_map=True)
    in_apply_map = st.lists(simple(inside) | blocks(inside, simple(inside)), min_size=1, max_size=4).map(tuple)
    applied = st.builds(d.ApplyMap, st.lists(to_map_over | wholes, min_size=1, max_size=2).map(tuple), in_apply_map)
    given_values = numbers | st.lists(numbers, max_size=5) | st.just("text")
    plain = simple(calls(spec)) | maps(spec) | maps(spec) | maps(spec) | applied | st.builds(d.Given, given_values)
    return plain | plain | blocks(calls(spec), plain)


def flows(*, max_size: int = 8, delays: tuple[float, ...] = (0.0,)) -> st.SearchStrategy[list[d.Statement]]:
    """Descriptions of flows."""
    return st.lists(statements(delays=delays), min_size=1, max_size=max_size)


engine_settings = st.fixed_dictionaries(
    {
        "inline_nbytes": st.sampled_from([16384, 0, 40]),
        "rescued_nbytes": st.sampled_from([1 << 20, 0, 100]),
        "probe_elements": st.sampled_from([64, 1]),
        "inplace_retry_delay_s": st.sampled_from([0.5, 0.0]),
        "target_chunk_s": st.sampled_from([0.15, 1e-6]),
        "chunks_per_slot": st.sampled_from([3, 1]),
        "max_tracebacks": st.sampled_from([20, 0]),
    }
)
"""Settings of the engine that must not change what a flow gives."""
