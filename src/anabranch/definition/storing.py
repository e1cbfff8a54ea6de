"""Whether and where a task's values are stored, and which stored ones will do instead of running it: a plain value.

What a task says is completed by what its flow and the settings say when a run is planned. Storing itself happens where
tasks run, in `anabranch.engine.worker.storage`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from anabranch.base.errors import OptionError, listed
from anabranch.base.names import check_name, short
from anabranch.base.signatures import signature_of
from anabranch.definition.caching import CacheKey, code, inputs, never_use
from anabranch.definition.fingerprints import describe_code
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.policies import to_seconds
from anabranch.results.result import Result
from anabranch.results.templates import OF_ELEMENTS, Template


class _Target(Template):
    what = "target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storing:
    """What a task says of its values."""

    result: Result | None = None
    target: Template | None = None
    """Where a value that is there will do instead of a run, whoever wrote it."""
    location: Template | None = None
    """Where values go, in place of the result's own template."""
    checkpoint: bool | None = None
    cache_for_s: float | None = None
    cache_key: CacheKey | None = None
    scope: str | None = None
    """Whose values these are in the cache; None: the task's."""
    validator: Callable[..., Any] | None = None
    code: str | None = ""
    """A text that changes with the task's code, None if there is none; only in a run that is planned."""
    code_gap: str = ""
    """Why there is none."""
    is_resumed: bool = False
    """Whether the run went on: what is written again takes the place of what was there."""

    @property
    def is_cached(self) -> bool:
        """Whether values of other runs are looked for by key."""
        return self.cache_key is not None

    @property
    def template(self) -> Template:
        """Names of what is written."""
        assert self.result is not None
        return self.target or self.location or self.result.template

    def changes(self, base: Storing | None) -> Storing:
        """These options as changes of others."""
        if base is None:
            return self
        given = {name: value for name in _NAMES if (value := getattr(self, name)) is not None}
        return replace(base, **given)


_NAMES = ("result", "target", "location", "checkpoint", "cache_for_s", "cache_key", "scope", "validator")


def storing_of(options: Mapping[str, Any], base: Storing | None = None) -> Storing | None:
    """What the options of a task say of its values; None if they say nothing.

    Raises
    ------
    OptionError
        An option cannot have that value, or two say different things.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return base
    target = given.get("target")
    changes: dict[str, Any] = {
        "result": choose_result(given),
        "target": _Target.of(target) if target is not None else None,
        "location": Template.of(given["location"]) if "location" in given else None,
        "checkpoint": given.get("checkpoint"),
        "cache_for_s": to_seconds(given["cache_for"], "cache_for", zero=False) if "cache_for" in given else None,
    }
    if changes["checkpoint"] not in (None, True, False):
        raise OptionError(f"checkpoint: expected True or False, found {short(given['checkpoint'])}")
    if target is not None and "location" in given:
        raise OptionError("target and location are both given, and both say where the value goes; give one of them")
    storing = Storing(**changes, **_cache_of(given)).changes(base)
    if storing.target is not None and storing.is_cached:
        raise OptionError("target and a cache are both given, and both decide which stored value is used; give one")
    if storing.location is not None and storing.is_cached:
        raise OptionError("location is given with a cache, which has places of its own; give one of them")
    if storing.checkpoint is False and (storing.target is not None or storing.is_cached):
        raise OptionError("checkpoint=False stores nothing, but a target or a cache is given; leave out one")
    return storing


def choose_result(options: Mapping[str, Any]) -> Result | None:
    """The result that is given as ``result`` or ``result_handler``.

    Raises
    ------
    OptionError
        It is none, or two are given.
    """
    found = [value for name in ("result", "result_handler") if (value := options.get(name)) is not None]
    if len(found) > 1:
        raise OptionError("result and result_handler are both given; they are the same, so give one")
    if found and not isinstance(found[0], Result):
        hint = "; call it" if isinstance(found[0], type) else ""
        raise OptionError(f"result: expected a result such as LocalResult('results'), found {short(found[0])}{hint}")
    return found[0] if found else None


def _cache_of(given: Mapping[str, Any]) -> dict[str, Any]:
    key, validator = given.get("cache_key"), given.get("cache_validator")
    if key is None and validator is None and "cache_for" not in given:
        return {}
    scope = None
    if isinstance(key, str):
        scope, key = check_name(key, "cache_key"), None
    if isinstance(validator, CacheKey):
        if key is not None:
            raise OptionError("cache_key and cache_validator both say what must be the same; give one of them")
        key, validator = validator, None
    elif validator is not None and not callable(validator):
        raise OptionError(
            f"cache_validator: expected one of anabranch.definition.caching or a function, found {short(validator)}"
        )
    # Code counts unless another task is meant to take the values, too.
    default = inputs if scope is not None else inputs + code
    key = CacheKey.of(key) if key is not None else CacheKey(default.parts)
    return {"cache_key": key, "scope": scope, "validator": validator}


# ---------------------------------------------------------------------------------------------------------------------


def completed(
    storing: Storing | None, *, flow_result: Result | None, checkpointing: bool, default: Callable[[], Result]
) -> Storing | None:
    """What is to be done with a task's values in a run; None if nothing is.

    Parameters
    ----------
    flow_result
        The flow's, for tasks that have none of their own.
    checkpointing
        Whether values are stored of tasks that say nothing of it.
    default
        Makes the result for where one is needed and none is named.
    """
    own = storing or Storing()
    if own.checkpoint is False:
        return None
    result = own.result or flow_result
    asked = own.target is not None or own.location is not None or own.is_cached or own.checkpoint
    if result is None and (asked or checkpointing):
        result = default()
    return replace(own, result=result) if result is not None else None


def describe_code_of(node: FrozenNode, storing: Storing) -> Storing:
    """The same with what is known of the code of its node, if values are looked for by a key."""
    if not storing.is_cached:
        return storing
    found = describe_code(node.signature.function)
    return replace(storing, code=None if found.gap else found.text, code_gap=found.gap)


def goes_by_element(storing: Storing, mapped: Collection[str]) -> bool:
    """Whether each element of a map has an object of its own, since the template, or a cache, tells them apart."""
    if storing.is_cached:
        return True
    template = storing.template
    if template.function is None:
        return bool(template.fields & {*OF_ELEMENTS, *mapped})
    try:
        parameters = signature_of(template.function).parameters
    except (TypeError, ValueError):
        return True
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return takes_all or bool(parameters.keys() & {*OF_ELEMENTS, *mapped})


def find_storing_problems(
    storing: Storing,
    *,
    inputs: Collection[str],
    parameters: Collection[str],
    mapped: Collection[str] | None,
) -> Iterator[str]:
    """What is wrong with how the values of a node are to be stored, as far as that shows before a run.

    Parameters
    ----------
    inputs, parameters
        Of the task, and of the flow.
    mapped
        The inputs that differ between elements; None if it is no map.
    """
    try:
        storing.template.check((*parameters, *inputs))
    except OptionError as error:
        yield str(error)
    if mapped is None and "map_index" in storing.template.fields:
        yield f"{storing.template.what} {storing.template.source!r}: there is no map_index, as the task is not mapped"
    if mapped is not None and storing.target is not None and not goes_by_element(storing, mapped):
        yield (
            f"target {storing.target.source!r}: all elements of the map would have the same target; add {{map_index}}, "
            f"or one of the mapped inputs {listed(sorted(mapped))}"
        )
    if (key := storing.cache_key) is not None:
        if unknown := sorted(key.named_inputs - set(inputs)):
            yield f"cache_key: the task has no input {listed(unknown)}; it has: {listed(inputs)}"
        if unknown := sorted(key.named_parameters - set(parameters)):
            yield f"cache_key: the flow has no parameter {listed(unknown)}; it has: {listed(parameters)}"


def is_never(storing: Storing) -> bool:
    """Whether values are stored for others, and none is taken."""
    return storing.cache_key is never_use
