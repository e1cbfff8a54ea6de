"""Secrets, above all of parameters: their values are taken out of what is about to be recorded."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anabranch.base.masking import MASK, holds_secret, knows_any, mask, spellings
from anabranch.base.states import Failure
from anabranch.definition.expressions import Build, Const, Expression
from anabranch.definition.frozen import FrozenGraph
from anabranch.engine.units.units import Note
from anabranch.runs.record.refs import dump_note, dump_stored, load_note, load_stored
from anabranch.runs.record.reports import facts_of
from anabranch.runs.store.records import Batch, ElementRow, TaskRunRow


class Secrets:
    """Takes the values of secret parameters out of what is about to be recorded.

    Parameters
    ----------
    values
        The secret values, by slug of the parameter.
    graph
        The flow: arguments that are made of secret parameters are masked as a whole.
    """

    MASK = MASK

    def __init__(self, values: Mapping[str, Any], graph: FrozenGraph) -> None:
        texts = {text for value in values.values() for text in spellings(value)}
        self._texts = sorted(texts, key=len, reverse=True)
        self._data = [text.encode(errors="surrogatepass") for text in self._texts]
        self._parts = {f"parameter {graph.nodes[slug].name}" for slug in values}
        self._arguments = {
            slug: frozenset(name for name, each in node.arguments.items() if _mentions(each, values))
            for slug, node in (graph.nodes.items() if values else ())
        }

    def __bool__(self) -> bool:
        return bool(self._arguments) or knows_any()

    def masked(self, batch: Batch) -> Batch:
        """The batch without them; a value that has one inside is left out, and made again if it is needed."""
        if not self:
            return batch
        return replace(
            batch,
            task_runs=[
                replace(
                    each,
                    value=self._clean(each.value),
                    result=self._place(each.result),
                    fingerprint=dump_note(self._note(each.slug, load_note(each.fingerprint))),
                    **self._told(each),
                )
                for each in batch.task_runs
            ],
            chunks=[
                replace(each, values=self._clean(each.values), result=self._places(each.slug, each.result))
                for each in batch.chunks
            ],
            elements=[replace(each, **self._told(each)) for each in batch.elements],
        )

    def text(self, text: str) -> str:
        """The text with a mask in their place."""
        for secret in self._texts:
            text = text.replace(secret, self.MASK)
        return mask(text)

    def _place(self, text: str | None) -> str | None:
        """Where a value is stored, of which its short text is a part."""
        return None if text is None else self.text(text)

    def _places(self, slug: str, text: str | None) -> str | None:
        """The same of a chunk, with what its keys were made of."""
        refs, notes = load_stored(text)
        known = {index: found for index, note in notes.items() if (found := self._note(slug, note)) is not None}
        return self._place(dump_stored(refs, known))

    def _note(self, slug: str, note: Note | None) -> Note | None:
        """What a key was made of, without digests of secrets, of which a short one could be found out."""
        if note is None:
            return None
        hidden = {f"input {name}" for name in self._arguments.get(slug, ())} | self._parts
        return note[0], {part: text for part, text in note[1].items() if part not in hidden}

    def _clean(self, data: bytes | None) -> bytes | None:
        return None if data is None or holds_secret(data) or any(secret in data for secret in self._data) else data

    def _told(self, row: TaskRunRow | ElementRow) -> dict[str, Any]:
        facts = facts_of(row.failure)
        failure = facts.get("failure")
        if isinstance(failure, Failure):
            hidden = self._arguments.get(row.slug, frozenset())
            facts["failure"] = replace(
                failure,
                message=self.text(failure.message),
                traceback=self.text(failure.traceback),
                inputs={n: self.MASK if n in hidden else self.text(text) for n, text in failure.inputs.items()},
                exception=self._clean(failure.exception),
            )
        if self._clean(facts.get("result")) is None:
            facts.pop("result", None)
        if "unmappable" in facts:
            facts["unmappable"] = self.text(facts["unmappable"])
        packed = pickle.dumps(facts, protocol=5) if facts else None
        return {"message": self.text(row.message), "failure": packed}


def _mentions(expression: Expression, slugs: Mapping[str, Any]) -> bool:
    if isinstance(expression, Build):
        return any(_mentions(part, slugs) for part in expression.parts)
    return not isinstance(expression, Const) and expression.node in slugs
