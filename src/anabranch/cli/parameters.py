"""A flow's parameters on the command line: as options, as ``-p NAME=VALUE``, from a file.

Texts become values here as far as the text alone tells. The run checks whether values fit their parameters, and reports
all problems at once.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anabranch.base.masking import MASK
from anabranch.base.texts import printable, shortened

if TYPE_CHECKING:
    from anabranch.definition.task import Parameter

_DEST = "flow_parameter_"
_LISTS = (list, tuple, set, frozenset)
MAX_SHOWN = 60  # characters of a default or of choices in a help text
MAX_DEPTH_TEXT = "nested too deeply"


# Options --------------------------------------------------------------------------------------------------------------


class ParameterOption(click.Option):
    """A parameter of a flow as an option. Its value is the texts that were given, or None."""

    def __init__(self, parameter: Parameter, names: Sequence[str]) -> None:
        self.parameter = parameter
        self.spelling = names[0]
        dest = f"{_DEST}{parameter.name}"
        if is_flag(parameter):
            super().__init__([dest, *names], is_flag=True, default=None, help=described(parameter))
        else:
            super().__init__([dest, *names], multiple=True, default=None, help=described(parameter))

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option with its kind of value, and its default."""
        spelling = self.spelling if self.is_flag else f"{self.spelling} {kind_of(self.parameter)}"
        return spelling, described(self.parameter)


def options_for(parameters: Mapping[str, Parameter], taken: Iterable[str]) -> list[ParameterOption]:
    """An option for each parameter whose name can be one, and is not `taken` by one of our own."""
    used = set(taken)
    options = []
    for name, parameter in parameters.items():
        if not f"{_DEST}{name}".isidentifier():  # it is given by -p
            continue
        dashed = name.strip("_").replace("_", "-") or name
        names = [f"--{dashed}"]
        if is_flag(parameter) and f"--no-{dashed}" not in used and f"no_{name}" not in parameters:
            names = [f"--{dashed}/--no-{dashed}"]
        elif dashed != name and f"--{name}" not in used:
            names.append(f"--{name}")
        spelt = {part for each in names for part in each.split("/")}
        if spelt & used:
            continue
        used |= spelt
        options.append(ParameterOption(parameter, names))
    return options


def is_flag(parameter: Parameter) -> bool:
    """Whether the parameter is either true or false."""
    return parameter.type is bool


def kind_of(parameter: Parameter) -> str:
    """What kind of value it takes, in a word."""
    from anabranch.definition.parameter_values import shown_type

    if parameter.choices is not None:
        return shortened("|".join(map(str, parameter.choices)), MAX_SHOWN)
    return shortened(shown_type(parameter.type), MAX_SHOWN) if parameter.type is not None else "value"


def described(parameter: Parameter) -> str:
    """Say that a value is required, or what its default is."""
    from anabranch.definition.parameter_values import is_secret

    default = MASK if is_secret(parameter) and parameter.default_value is not None else repr(parameter.default_value)
    text = "required" if parameter.required else f"default: {shortened(default, MAX_SHOWN)}"
    return f"{text}; may be repeated" if takes_list(parameter.type) else text


# Values ---------------------------------------------------------------------------------------------------------------


class Given:
    """Values of parameters, gathered from all the places where they can be given."""

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = parameters
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}

    def values(self, below: Mapping[str, Any]) -> dict[str, Any]:
        """All of them; they win over those of a file."""
        return {**below, **self._values}

    def take_options(self, given: Mapping[str, Any]) -> None:
        """Take the flow's own options."""
        for dest, value in given.items():
            if dest.startswith(_DEST) and value is not None and value != ():
                name = dest.removeprefix(_DEST)
                self._take(name, [value] if isinstance(value, bool) else value, f"--{name.replace('_', '-')}")

    def take_pairs(self, pairs: Iterable[str]) -> None:
        """Take options ``-p NAME=VALUE``; ``@FILE`` is what is in the file, and ``-`` what is on standard input."""
        texts: dict[str, list[str]] = {}
        for pair in pairs:
            name, equals, text = pair.partition("=")
            name = name.strip()
            if not equals or not name:
                raise click.BadParameter(f"expected NAME=VALUE, found {pair!r}", param_hint="'-p'")
            if not text:
                how = f"give the parameter as an option: --{name} ''" if name.isidentifier() else "use --params FILE"
                raise click.BadParameter(
                    f"expected a value after {pair!r}; for an empty text, {how}", param_hint="'-p'"
                )
            texts.setdefault(name, []).append(_content(text))
        for name, some in texts.items():
            self._take(name, some, "-p")

    def ask_for_secrets(self, below: Mapping[str, Any]) -> None:
        """Ask for required secret parameters without a value, if somebody is there who can answer."""
        from anabranch.definition.parameter_values import is_secret

        if sys.stdin.isatty():
            for name, parameter in self._parameters.items():
                if parameter.required and is_secret(parameter) and name not in {**below, **self._values}:
                    self._take(name, [click.prompt(printable(name), hide_input=True, err=True)], "an answer")

    def _take(self, name: str, texts: Sequence[Any], source: str) -> None:
        if name in self._sources:
            raise click.UsageError(f"parameter {name!r} is given twice, as {self._sources[name]} and as {source}")
        self._sources[name] = source
        parameter = self._parameters.get(name)
        annotation = parameter.type if parameter is not None else None
        if len(texts) > 1 and not takes_list(annotation):
            shown = ", ".join(map(repr, texts))
            text = f"parameter {name!r} is given {len(texts)} times: {shown}"
            raise click.BadParameter(text, param_hint=f"'{source}'")
        try:
            self._values[name] = value_of(texts, annotation)
        except ValueError as error:
            raise click.BadParameter(f"parameter {name!r}: {error}", param_hint=f"'{source}'") from error


def _content(text: str) -> str:
    """A text, or what is in the file that it names, without the end of its last line."""
    if text != "-" and not text.startswith("@"):
        return text
    try:
        found = sys.stdin.read() if text == "-" else Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise click.BadParameter(f"{text.removeprefix('@')} cannot be read: {reason}", param_hint="'-p'") from error
    return found.removesuffix("\n").removesuffix("\r")


def value_of(texts: Sequence[Any], annotation: Any) -> Any:
    """The value that one or more texts stand for; for a parameter with a type, perhaps still a text.

    Raises
    ------
    ValueError
        A text begins like JSON and is not; the message says where.

    Examples
    --------
    >>> value_of(["3"], None), value_of(["2026-11-20"], None), value_of(["3"], str)
    (3, '2026-11-20', '3')
    >>> value_of(["1", "2"], list[int]), value_of(["1"], list[int]), value_of(["[1]"], list[int])
    (['1', '2'], ['1'], '[1]')
    """
    if len(texts) == 1:
        (text,) = texts
        if not isinstance(text, str):
            return text
        if annotation in (None, Any, object):
            return untyped(text)
        if _takes_text(annotation):
            return text
        if text.lstrip().startswith(("{", "[")):
            try:
                parsed_json(text)
            except ValueError:
                if not _takes_texts(annotation):
                    raise
                return [text]
            return text
        if not takes_list(annotation) or text in ("null", "None"):
            return text
    return list(texts)


def untyped(text: str) -> Any:
    """JSON if it parses, else the text; but a text that begins like a JSON object, list or string must be one.

    Raises
    ------
    ValueError
        It is not.
    """
    try:
        return parsed_json(text)
    except ValueError as error:
        if text.lstrip().startswith(("{", "[", '"')):
            raise ValueError(f"{error}; write a text that begins like this as a JSON string") from None
        return text


def parsed_json(text: str) -> Any:
    """JSON, strictly: no key twice, no NaN.

    Raises
    ------
    ValueError
        With the position.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_number, parse_int=_bounded_int)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"{shortened(repr(text), MAX_SHOWN)} is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise ValueError(f"{shortened(repr(text), MAX_SHOWN)} is not usable JSON: {MAX_DEPTH_TEXT}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"JSON with the key {key!r} twice in one object")
        found[key] = value
    return found


def _refuse_number(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > 4_000:  # Python itself refuses a little above
        raise ValueError(f"an int of {len(digits):,} digits is too large")
    return int(digits)


def takes_list(annotation: Any) -> bool:
    """Whether values of a type are lists, tuples or sets.

    Examples
    --------
    >>> takes_list(list[int]), takes_list(tuple[str, ...] | None), takes_list(dict[str, int]), takes_list(str)
    (True, True, False, False)
    """
    return any(_is_list(each) for each in _alternatives(annotation))


def _is_list(annotation: Any) -> bool:
    origin = typing.get_origin(annotation) or annotation
    if not isinstance(origin, type):
        return False
    return issubclass(origin, _LISTS) or (
        origin.__module__ == "collections.abc" and issubclass(list, origin) and origin.__name__ != "Hashable"
    )


def _takes_text(annotation: Any) -> bool:
    return any(each in (str, bytes, Path) for each in _alternatives(annotation))


def _takes_texts(annotation: Any) -> bool:
    """Whether its values are lists of texts."""
    lists = [each for each in _alternatives(annotation) if _is_list(each)]
    return any(not typing.get_args(each) or any(map(_takes_text, typing.get_args(each))) for each in lists)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return tuple(each for arg in typing.get_args(annotation) for each in _alternatives(arg))
    return (annotation,)


# Files ----------------------------------------------------------------------------------------------------------------


def read_file(name: str) -> dict[str, Any]:
    """Values from a YAML or JSON file; ``-`` is standard input."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe, and refuses a key that is given twice, since its first value would be lost silently."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key_node, _ in node.value:
                if key_node.value in seen and isinstance(key_node, yaml.ScalarNode):
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key_node.value!r} is there twice", key_node.start_mark
                    )
                seen.add(key_node.value if isinstance(key_node, yaml.ScalarNode) else None)
            return super().construct_mapping(node, deep)

    hint = "'--params'"
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        content = yaml.load(text, Loader)  # a subclass of SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise click.BadParameter(f"{name} cannot be read: {reason}", param_hint=hint) from error
    except yaml.YAMLError as error:
        raise click.BadParameter(f"{name} is not YAML: {_yaml_problem(error)}", param_hint=hint) from error
    except (RecursionError, ValueError) as error:
        reason = MAX_DEPTH_TEXT if isinstance(error, RecursionError) else str(error)
        raise click.BadParameter(f"{name} is not usable: {reason}", param_hint=hint) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise click.BadParameter(
            f"{name}: expected parameters as NAME: VALUE, found {type(content).__name__}", param_hint=hint
        )
    return {str(key): value for key, value in content.items()}


def _yaml_problem(error: Any) -> str:  # a yaml.YAMLError, which may have a mark
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{problem} at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else problem
