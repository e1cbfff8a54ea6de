"""How long chunks are: the arithmetic by itself, and what comes of it on simulated clusters."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulator import SETTINGS, simulate

from anabranch.engine.machine.pacing import CHUNKS_PER_SECOND, GIVE_UP_TARGETS, ROUNDS, Pacer


def pacer_at(pace_s: float, **settings: Any) -> Pacer:
    """A pacer that has seen elements take so long."""
    pacer = Pacer({**SETTINGS, **settings})
    pacer.observe(width=1_000, seconds=1_000 * pace_s)
    return pacer


# The arithmetic -------------------------------------------------------------------------------------------------------


def test_a_probe_is_small_and_a_small_part_of_a_slots_share() -> None:
    pacer = Pacer(SETTINGS)

    assert pacer.is_probing
    assert pacer.next_size(left=1_000_000, slots=2) == 64
    assert pacer.next_size(left=160, slots=2) == 10
    assert pacer.next_size(left=3, slots=2) == 1


def test_chunks_of_what_runs_side_by_side_fill_the_lanes() -> None:
    pacer = Pacer(SETTINGS, lanes=100)

    assert [pacer.next_size(left=left, slots=2) for left in (100_000, 100, 3)] == [100, 50, 2]
    pacer.observe(width=100, seconds=60.0)  # of a minute each: 0.6 s an element
    assert pacer.next_size(left=100_000, slots=2) == ROUNDS * 100
    assert (
        pacer.next_size(left=2_000, slots=2) == 300
    )  # whole lanes: a quarter of the share would leave half of them empty
    assert pacer.next_size(left=400, slots=2) == 100
    assert pacer.next_size(left=100, slots=2) == 50
    assert pacer.give_up_s(2, 800) == pytest.approx(GIVE_UP_TARGETS * 480)
    for _ in range(20):
        pacer.observe(width=1_000, seconds=0.01)
    assert pacer.next_size(left=1_000_000, slots=2) > ROUNDS * 100


def test_chunks_take_the_target_in_the_middle_of_a_wide_map() -> None:
    pacer = pacer_at(0.001, target_chunk_s=0.15)

    assert pacer.next_size(left=1_000_000, slots=2) == 150


def test_a_chunk_takes_a_quarter_of_a_slots_share_at_the_most() -> None:
    pacer = pacer_at(0.001, target_chunk_s=0.15)

    assert pacer.next_size(left=800, slots=2) == 100


def test_an_element_longer_than_the_target_is_a_chunk_of_its_own() -> None:
    assert pacer_at(10.0).next_size(left=1_000, slots=2) == 1


def test_the_pace_rises_at_once_and_falls_by_half_steps() -> None:
    pacer = pacer_at(0.1)

    pacer.observe(width=10, seconds=4.0)
    assert pacer.pace_s == pytest.approx(0.4)
    pacer.observe(width=10, seconds=2.0)
    assert pacer.pace_s == pytest.approx(0.3)


def test_a_chunk_without_elements_teaches_nothing() -> None:
    pacer = Pacer(SETTINGS)

    pacer.observe(width=0, seconds=1.0)

    assert pacer.is_probing


def test_a_slow_stretch_that_was_handed_back_is_cut_at_the_pace_of_its_last_element() -> None:
    pacer = pacer_at(1e-6)

    pacer.handed_back(0.5)

    assert pacer.next_size(left=1_000, slots=2) == 1


def test_a_chunk_gives_up_after_four_targets_and_a_probe_after_one() -> None:
    assert Pacer(SETTINGS).give_up_s(2) == pytest.approx(0.15)
    assert pacer_at(0.001).give_up_s(2) == pytest.approx(0.15 * GIVE_UP_TARGETS)


def test_a_fixed_size_is_kept_and_never_given_up() -> None:
    pacer = Pacer(SETTINGS, 7)
    pacer.observe(width=7, seconds=70)

    assert [pacer.next_size(left=left, slots=4) for left in (100, 7, 3)] == [7, 7, 3]
    assert pacer.give_up_s(4) is None
    assert not pacer.is_probing


def test_chunks_get_longer_where_there_are_many_slots() -> None:
    assert pacer_at(0.001).target_s(2) == 0.15
    assert pacer_at(0.001).target_s(3_000) == 3_000 / CHUNKS_PER_SECOND


@pytest.mark.parametrize("pace_s", [1e-7, 1e-4, 0.01], ids=lambda pace: f"{pace:g} s")
def test_the_results_of_a_chunk_are_bounded_in_bytes(pace_s: float) -> None:
    pacer = Pacer({**SETTINGS, "chunk_nbytes": 64 << 20})
    pacer.observe(width=10, seconds=10 * pace_s, nbytes=10 << 20)

    sizes = [pacer.next_size(left=left, slots=2) for left in (100_000, 10_000, 1_000)]

    assert all(1 <= size <= 64 for size in sizes), sizes


def test_one_element_larger_than_the_bound_is_still_a_chunk() -> None:
    pacer = Pacer({**SETTINGS, "chunk_nbytes": 1_000})
    pacer.observe(width=1, seconds=0.01, nbytes=1 << 20)

    assert pacer.next_size(left=100, slots=2) == 1


observations = st.lists(
    st.tuples(st.integers(0, 10_000), st.just(0.0) | st.floats(1e-9, 1e4), st.integers(0, 1 << 40), st.booleans())
)


@settings(deadline=None, derandomize=True, database=None, max_examples=300)
@given(observations, st.integers(1, 10**8), st.integers(0, 10**5), st.one_of(st.just("auto"), st.integers(1, 1000)))
def test_a_size_is_always_between_one_and_what_is_left(
    seen: list[tuple[int, float, int, bool]], left: int, slots: int, chunksize: Any
) -> None:
    pacer = Pacer(SETTINGS, chunksize)
    for width, seconds, nbytes, is_handed_back in seen:
        pacer.observe(width=width, seconds=seconds, nbytes=nbytes)
        if is_handed_back:
            pacer.handed_back(seconds)
        assert 1 <= pacer.next_size(left=left, slots=slots) <= left


# On simulated clusters ------------------------------------------------------------------------------------------------

Profile = Callable[[int], list[float]]
"""Seconds of each element, for so many slots: about ten seconds of work for each."""


def drawn(make: Callable[[random.Random], float], mean_s: float) -> Profile:
    """Durations from a seeded distribution."""

    def durations(slots: int) -> list[float]:
        source = random.Random(7)
        return [make(source) for _ in range(int(10 * slots / mean_s))]

    return durations


PROFILES: dict[str, Profile] = {
    "constant 0.5 ms": lambda slots: [0.0005] * (20_000 * slots),
    "constant 50 ms": lambda slots: [0.05] * (200 * slots),
    "constant 1 s": lambda slots: [1.0] * (10 * slots),
    "bimodal": drawn(lambda source: 0.05 if source.random() < 0.1 else 0.001, 0.0059),
    "ascending": lambda slots: sorted(drawn(lambda source: source.uniform(0, 0.02), 0.01)(slots)),
    "descending": lambda slots: sorted(drawn(lambda source: source.uniform(0, 0.02), 0.01)(slots), reverse=True),
    "heavy-tailed": drawn(lambda source: min(3.0, 0.002 * source.paretovariate(1.5)), 0.006),
    "one straggler in the middle": lambda slots: [0.001] * (5_000 * slots) + [3.0] + [0.001] * (5_000 * slots),
    "slow start": lambda slots: [0.2] * (20 * slots) + [0.002] * (3_000 * slots),
    "slow end": lambda slots: [0.002] * (3_000 * slots) + [0.2] * (20 * slots),
}


@pytest.mark.parametrize("slots", [2, 16])
@pytest.mark.parametrize("profile", PROFILES)
def test_wide_maps_lose_little_to_their_chunks(profile: str, slots: int) -> None:
    run = simulate(PROFILES[profile](slots), slots=slots, latency_s=0.003)

    assert run.efficiency >= 0.93, run
    assert set(run.runs.values()) == {1}


@pytest.mark.parametrize("profile", PROFILES)
def test_on_a_thousand_slots_the_end_is_a_few_targets_after_the_ideal(profile: str) -> None:
    """There a chunk aims at 3.3 s: more often, and the driver would not keep up."""
    run = simulate(PROFILES[profile](50), slots=1_000)

    assert run.makespan_s <= 1.1 * run.work_s / run.slots + run.longest_s + 2 * 1_000 / CHUNKS_PER_SECOND, run


@pytest.mark.parametrize("slots", [2, 16, 1_000])
@pytest.mark.parametrize("profile", PROFILES)
def test_the_driver_sees_a_few_hundred_chunks_a_second(profile: str, slots: int) -> None:
    """Beside three for each slot: a probe, and two at the end."""
    run = simulate(PROFILES[profile](min(slots, 50)), slots=slots)

    assert len(run.sizes) <= 3 * slots + 2 * CHUNKS_PER_SECOND * max(1.0, run.makespan_s), run.makespan_s


@pytest.mark.parametrize("profile", ["constant 0.5 ms", "bimodal", "heavy-tailed"])
def test_a_driver_that_takes_its_time_for_each_report_does_not_hold_up_a_thousand_slots(profile: str) -> None:
    durations = PROFILES[profile](50)

    quick, slow = (simulate(durations, slots=1_000, driver_s=driver_s) for driver_s in (0.0, 0.001))

    assert slow.makespan_s <= quick.makespan_s + 5.0, (quick.makespan_s, slow.makespan_s, len(slow.sizes))


@pytest.mark.parametrize("slots", [2, 16, 1_000])
def test_elements_that_take_no_time_cost_a_few_chunks_for_each_slot(slots: int) -> None:
    run = simulate([1e-6] * 200_000, slots=slots)

    assert len(run.sizes) <= 4 * slots
    assert run.makespan_s <= run.ideal_s + 0.1


@pytest.mark.parametrize("slots", [2, 16])
def test_a_straggler_at_the_very_end_costs_its_own_time(slots: int) -> None:
    run = simulate([0.001] * (5_000 * slots) + [3.0], slots=slots)

    assert run.makespan_s <= 1.08 * run.work_s / slots + run.longest_s


@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("where", ["at the end", "at the start", "in the middle"])
def test_ten_slow_elements_among_ten_thousand_spread_over_all_slots(where: str, slots: int) -> None:
    quick, slow = [1e-6] * 9_990, [0.5] * 10
    cut = {"at the end": 9_990, "at the start": 0, "in the middle": 5_000}[where]

    run = simulate([*quick[:cut], *slow, *quick[cut:]], slots=slots)

    assert run.efficiency >= 0.75 if slots == 2 else run.makespan_s <= 2.5, run


def test_without_giving_up_a_slow_stretch_would_stay_on_one_slot() -> None:
    """What the give-up rule is for: the same map in chunks that are fixed."""
    durations = [1e-6] * 9_990 + [0.5] * 10

    fixed = simulate(durations, slots=2, chunksize=1_000)

    assert fixed.makespan_s > 5.0
    assert simulate(durations, slots=2).makespan_s < 3.3


@pytest.mark.parametrize(
    ("width", "seconds", "slots"), [(100, 0.1, 2), (7, 1.0, 2), (3, 1.0, 16), (16, 0.5, 16), (1, 2.0, 8)]
)
def test_short_maps_of_slow_elements_use_every_slot(width: int, seconds: float, slots: int) -> None:
    run = simulate([seconds] * width, slots=slots)

    rounds = -(-width // slots)
    assert run.makespan_s <= rounds * seconds * 1.05 + 0.05, run


def test_fixed_chunks_of_one_switch_batching_off() -> None:
    run = simulate([0.001] * 500, slots=4, chunksize=1)

    assert run.sizes == (1,) * 500
