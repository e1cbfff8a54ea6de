"""Where values are stored, and what keys of caches were made of, as texts in rows of the run store: no pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from anabranch.base.errors import RunStoreDamaged
from anabranch.base.masking import mask
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.units import Note, Refs
from anabranch.results.locations import slug
from anabranch.results.reference import ResultRef

_NAMES = tuple(each.name for each in fields(ResultRef))


def dump_ref(ref: ResultRef | None) -> str | None:
    """Where a value is stored."""
    return None if ref is None else json.dumps(_facts(ref))


def load_ref(text: str | None) -> ResultRef | None:
    """As `dump_ref` wrote it.

    Raises
    ------
    RunStoreDamaged
        It did not write this.
    """
    return None if not text else _ref(_parsed(text))


def dump_note(note: Note | None) -> str:
    """What looking for a cached value came to; nothing if nobody looked."""
    return "" if note is None else json.dumps([note[0], dict(note[1])])


def load_note(text: str) -> Note | None:
    """As `dump_note` wrote it.

    Raises
    ------
    RunStoreDamaged
        It did not write this.
    """
    return None if not text else _note(_parsed(text))


def dump_stored(refs: Refs, notes: Mapping[int, Note], *, is_enough: bool = False) -> str | None:
    """Where the values of a chunk are stored, and what looking for cached ones came to; None if there is neither.

    `is_enough`: one of its elements has ended the map.
    """
    if not refs and not notes and not is_enough:
        return None
    stored = [[_bounds(held), _facts(ref)] for held, ref in refs]
    noted = {str(index): [note[0], dict(note[1])] for index, note in notes.items()}
    facts = {"refs": stored, "notes": noted}
    return json.dumps({**facts, "enough": True} if is_enough else facts)


def load_enough(text: str | None) -> bool:
    """Whether an element of a chunk has ended its map, as `dump_stored` wrote it."""
    return bool(text) and bool(_parsed(text or "").get("enough"))


def load_stored(text: str | None) -> tuple[Refs, dict[int, Note]]:
    """As `dump_stored` wrote it.

    Raises
    ------
    RunStoreDamaged
        It did not write this.
    """
    if not text:
        return (), {}
    found = _parsed(text)
    try:
        refs = tuple((_indices(held), _ref(facts)) for held, facts in found["refs"])
        return refs, {int(index): _note(note) for index, note in found["notes"].items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(error) from None


def locations_in(text: str, run_id: str) -> dict[str, int]:
    """Sizes of the stored values that a text of a row names, by location, where that names the run."""
    found = _parsed(text)
    refs = [_ref(facts) for _, facts in found["refs"]] if isinstance(found, dict) else [_ref(found)]
    return {ref.location: ref.nbytes for ref in refs if slug(run_id) in ref.location}


def without_locations(text: str, run_id: str) -> str | None:
    """The text without these; None if nothing is left."""
    found = _parsed(text)
    if not isinstance(found, dict):
        return None if locations_in(text, run_id) else text
    refs = [(held, facts) for held, facts in found["refs"] if slug(run_id) not in _ref(facts).location]
    return json.dumps({**found, "refs": refs}) if refs or found["notes"] or found.get("enough") else None


def _bounds(held: Indices) -> Any:
    return {"from": held.start, "to": held.stop} if isinstance(held, range) else list(held)


def _indices(bounds: Any) -> Indices:
    if isinstance(bounds, dict):
        return range(int(bounds["from"]), int(bounds["to"]))
    return tuple(map(int, bounds))


def _facts(ref: ResultRef) -> list[Any]:
    return [getattr(ref, name) if name != "repr" else mask(ref.repr) for name in _NAMES]


def _ref(facts: Any) -> ResultRef:
    try:
        return ResultRef(**dict(zip(_NAMES, facts, strict=True)))
    except (TypeError, ValueError) as error:
        raise _damaged(error) from None


def _note(found: Any) -> Note:
    try:
        verdict, digests = found
        return str(verdict), {str(part): str(text) for part, text in digests.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise _damaged(error) from None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> RunStoreDamaged:
    return RunStoreDamaged(f"the run store says where a value is in a way that cannot be read: {error}")
