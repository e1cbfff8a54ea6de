"""What a map's own state is, seen from its elements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anabranch.states import FIRST_FAILED_CODE, Failed, Mapped, Skipped, State, counts_of


def map_state(
    slug: str, codes: bytes | bytearray, records: Mapping[int, State], *, min_success: float | None = None
) -> State:
    """Failed if an element failed, Skipped if all (one or more) were skipped, else Mapped.

    With `min_success`, it is Mapped as long as that share of elements has not failed.

    Parameters
    ----------
    codes
        One byte per element, all of them final.
    records
        States of what is not plain Success, by element.
    """
    counts = counts_of(codes)
    if min_success is not None and counts.total - counts.failed >= min_success * counts.total > 0:
        if counts.skipped + counts.failed < counts.total:
            return Mapped(message=str(counts), counts=counts)
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
