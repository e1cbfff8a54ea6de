"""Whether a cluster will do for a run, judged by what its workers say of versions, resources, room and code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from anabranch.base.errors import PreflightError

PAYLOAD_NBYTES = 10 << 20  # the scheduler keeps a run's constants in memory, and they are sent to every worker
SHOWN = 3  # workers that a message names

Versions: TypeAlias = Mapping[str, str | None]
"""Versions by package, ``python`` among them; None for a package that is not there."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run needs of its workers."""

    resources: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Amounts by resource, by task."""
    payload_nbytes: int = 0
    """Bytes that every worker is sent once: code, constants, parameters."""
    directories: Collection[str] = ()
    """Local paths at which workers write and this process reads; they are made if they are not there."""
    probe: Callable[[bytes], str | None] | None = None
    """Run on each worker, with `probe_data`: None if that loads there, else what is wrong. Pickled by value if it is a
    function of ``__main__``."""
    probe_data: bytes = b""
    may_grow: bool = False
    """Whether other workers may come."""


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What is known of one worker."""

    address: str
    is_paused: bool = False
    resources: Mapping[str, float] = field(default_factory=dict)
    versions: Versions | None = None
    """None if it did not answer."""
    trouble: str | None = None
    """What is wrong with its local directory."""
    unseen: frozenset[str] = frozenset()
    """Directories of the run that it does not have."""
    probe: str | None = None
    """Why the run's code does not load there."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a cluster."""

    here: Versions
    scheduler: Versions
    workers: Sequence[WorkerFacts]
    unwritable: Mapping[str, str] = field(default_factory=dict)
    """Directories of the run that cannot be written in here, with the reason."""


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """What was found, one line each: `problems` make the run impossible, `warnings` do not."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    good_workers: frozenset[str] = frozenset()
    """Addresses of workers that can run every task without resources, as far as is known."""

    def __str__(self) -> str:
        lines = [*(f"problem: {each}" for each in self.problems), *(f"warning: {each}" for each in self.warnings)]
        return "\n".join(lines) or f"nothing is wrong with {_count(len(self.good_workers), 'worker')}"

    def raise_problems(self, where: str) -> None:
        """Refuse the cluster at `where` if there are problems.

        Raises
        ------
        PreflightError
            All problems at once.
        """
        if self.problems:
            raise PreflightError(f"the cluster at {where} cannot run this flow:", self.problems)


# ---------------------------------------------------------------------------------------------------------------------
# Judging, which asks nobody


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    text: str
    is_problem: bool = False
    unfit: Sequence[str] = ()
    """Addresses of workers that should not be used for it."""


def judge(facts: Facts, needs: Needs) -> PreflightReport:
    """What the facts mean for a run."""
    findings = [
        *_about_versions(facts),
        *_about_resources(facts.workers, needs),
        *_about_workers(facts.workers),
        *_about_directories(facts, needs),
        *_about_code(facts.workers, needs),
    ]
    unfit = {address for finding in findings for address in finding.unfit}
    return PreflightReport(
        problems=tuple(each.text for each in findings if each.is_problem),
        warnings=tuple(each.text for each in findings if not each.is_problem),
        good_workers=frozenset(each.address for each in facts.workers) - unfit,
    )


def _about_versions(facts: Facts) -> Iterator[Finding]:
    for package, is_problem, why in (
        ("python", True, "code cannot travel between minor versions of Python, and ends the workers it is sent to"),
        ("dask", True, "its graphs differ from version to version"),
        ("distributed", True, "its messages differ from version to version"),
        ("cloudpickle", False, "code may not load there"),
    ):
        here = version_of(facts.here, package)
        differing: dict[str, list[str]] = {}  # addresses by version; "" is the scheduler
        places = {"": facts.scheduler}
        places |= {each.address: each.versions for each in facts.workers if each.versions is not None}
        for address, versions in places.items():
            found = version_of(versions, package)
            # A package that does not say its version may still be there; if it is not, its code does not load.
            if found is not None and found != here:
                differing.setdefault(found, []).append(address)
        for found, addresses in differing.items():
            workers = [address for address in addresses if address]
            places_named = " and ".join(
                [*(["the scheduler"] if "" in addresses else []), *([_named(workers)] * bool(workers))]
            )
            name = "Python" if package == "python" else package
            cure = f"install {name} {here} there, or run this from {name} {found}"
            yield Finding(
                f"{name} {found} on {places_named}, {here} here: {why}; {cure}", is_problem, is_problem * workers
            )


def version_of(versions: Versions, package: str) -> str | None:
    """The part of a package's version, or Python's, that must be the same everywhere; None if it is not there."""
    found = versions.get(package)
    return ".".join(found.split(".")[:2]) if package == "python" and found else found


def _about_resources(workers: Sequence[WorkerFacts], needs: Needs) -> Iterator[Finding]:
    for task, wanted in needs.resources.items():
        if any(all(each.resources.get(name, 0) >= amount for name, amount in wanted.items()) for each in workers):
            continue
        offered = {name: max((each.resources.get(name, 0) for each in workers), default=0) for name in wanted}
        short = ", ".join(f"{name}: at most {most:g}" for name, most in offered.items())
        options = " ".join(f"{name}={amount:g}" for name, amount in wanted.items())
        text = f"task {task!r} wants {options.replace(' ', ', ')}, and no worker offers that ({short}); "
        cure = f'start one with `dask worker … --resources "{options}"`'
        if needs.may_grow:
            yield Finding(f"{text}it waits until one comes that does: {cure}")
        else:
            yield Finding(f"{text}{cure}", is_problem=True)


def _about_workers(workers: Sequence[WorkerFacts]) -> Iterator[Finding]:
    if silent := [each.address for each in workers if each.versions is None]:
        yield Finding(f"no answer from {_named(silent)}: busy, or cut off; nothing is known of its versions")
    if paused := [each.address for each in workers if each.is_paused]:
        yield Finding(f"paused for want of memory, and beginning nothing new: {_named(paused)}")
    for each in workers:
        if each.trouble:
            yield Finding(f"worker {each.address}: {each.trouble}")


def _about_directories(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for directory, reason in facts.unwritable.items():
        yield Finding(f"cannot write in {directory}: {reason}", is_problem=True)
    for directory in needs.directories:
        if unseen := [each.address for each in facts.workers if directory in each.unseen]:
            yield Finding(
                f"{directory} of this machine is not there for {_named(unseen)}, so that results written by it would "
                "not be found; give a directory on a shared disk, or a result at a URL",
                len(unseen) == len(facts.workers),
                unseen,
            )


def _about_code(workers: Sequence[WorkerFacts], needs: Needs) -> Iterator[Finding]:
    if needs.payload_nbytes > PAYLOAD_NBYTES:
        yield Finding(
            f"{needs.payload_nbytes / 2**20:.0f} MiB of code, constants and parameters go to every worker; load large "
            "data in a task, or pass the place where it lies"
        )
    is_everywhere = bool(workers) and all(each.probe for each in workers)
    by_reason: dict[str, list[str]] = {}
    for each in workers:
        if each.probe:
            by_reason.setdefault(each.probe, []).append(each.address)
    for reason, addresses in by_reason.items():
        yield Finding(f"the flow's code does not load on {_named(addresses)}: {reason}", is_everywhere, addresses)


def _named(addresses: Sequence[str]) -> str:
    """Workers for a message: the first of them, and how many more.

    Examples
    --------
    >>> _named(["tcp://a:1"])
    'worker tcp://a:1'
    >>> _named([f"tcp://a:{port}" for port in range(5)])
    'workers tcp://a:0, tcp://a:1, tcp://a:2 (+2 others)'
    """
    more = len(addresses) - SHOWN
    rest = f" (+{_count(more, 'other')})" if more > 0 else ""
    return f"worker{'s' * (len(addresses) != 1)} {', '.join(addresses[:SHOWN])}{rest}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
