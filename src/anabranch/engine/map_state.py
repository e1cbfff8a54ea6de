"""What a map's own state is, seen from its elements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anabranch.states import FIRST_FAILED_CODE, Failed, Mapped, Skipped, State, counts_of


def map_state(slug: str, codes: bytes | bytearray, records: Mapping[int, State]) -> State:
    """Failed if an element failed, Skipped if all (one or more) were skipped, else Mapped.

    Parameters
    ----------
    codes
        One byte per element, all of them final.
    records
        States of what is not plain Success, by element.
    """
    counts = counts_of(codes)
    if counts.failed:
        first = next(i for i, code in enumerate(codes) if code >= FIRST_FAILED_CODE)
        failure = records[first].failure
        more = f" (+{counts.failed - 1:,} others)" if counts.failed > 1 else ""
        headline = failure.headline() if failure else records[first].message
        if failure is not None and not failure.root:
            failure = replace(failure, root=f"{slug}[{first}]")
        return Failed(message=f"{slug}[{first}]: {headline}{more}; {counts}", counts=counts, failure=failure)
    if counts.total and counts.skipped == counts.total:
        return Skipped(message=f"all {counts.total:,} elements were skipped", counts=counts)
    return Mapped(message=str(counts), counts=counts)
