"""What the HTTP API takes and gives, as pydantic models: they check requests, and `openapi` shows them."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from anabranch.base.errors import AnabranchError, FlowNotRegistered, RunNotFound, RunQueryError, RunStoreError
from anabranch.base.names import short

_MOST_PROBLEMS = 10  # in one answer
_STATUSES = {FlowNotRegistered: 404, RunNotFound: 404, RunQueryError: 400, RunStoreError: 503}


class Refused(AnabranchError):
    """The service does not do what was asked, and says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _parse_moment(value: object) -> datetime:
    try:
        found = datetime.fromisoformat(str(value))
        if found.tzinfo is None or not 1970 <= found.year < 9000:
            raise ValueError
    except ValueError:
        raise PydanticCustomError("moment", "expected a time with its zone, such as 2026-11-21T06:00:00Z") from None
    return found


_Text = Annotated[str, Field(min_length=1, max_length=200)]
_YEARS = {"pattern": "^(19[7-9]|[2-8][0-9]{2})[0-9]-"}
_Moment = Annotated[datetime, BeforeValidator(_parse_moment), Field(json_schema_extra=_YEARS)]


# What is asked --------------------------------------------------------------------------------------------------------


class Asked(BaseModel):
    """Only the properties that are listed here."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class StartAsked(Asked):
    """A run to start."""

    parameters: dict[str, Any] = {}
    due: _Moment | None = None
    """Earliest time of the start; by default now."""
    idempotency_key: _Text | None = None
    """Requests with the same key start only one run."""


class PauseAsked(Asked):
    """Whether to pause the schedule."""

    paused: bool


class ApproveAsked(Asked):
    """Tasks to approve."""

    tasks: Annotated[list[_Text], Field(min_length=1, max_length=1_000)]


class LimitAsked(Asked):
    """A part of a list."""

    limit: Annotated[int, Field(ge=1, le=1_000)] = 100


class FlowsAsked(LimitAsked):
    """Which flows to list."""

    offset: Annotated[int, Field(ge=0, le=10**9)] = 0
    project: _Text | None = None


class RunsAsked(LimitAsked):
    """Which runs to list."""

    offset: Annotated[int, Field(ge=0, le=10**9)] = 0
    flow: _Text | None = None
    state: _Text | None = None


class WaitingAsked(LimitAsked):
    """Which waiting runs to list."""

    flow: _Text | None = None


class DeedsAsked(LimitAsked):
    """Which deeds to list."""

    offset: Annotated[int, Field(ge=0, le=10**9)] = 0
    subject: _Text | None = None
    """The flow, run or group."""


# What is given, beside more ------------------------------------------------------------------------------------------


class Flow(BaseModel):
    """A registered flow."""

    name: str
    version: int
    schedule: str
    paused: bool


class Flows(BaseModel):
    """A part of the registered flows, and how many there are."""

    flows: list[Flow]
    total: int


class Started(BaseModel):
    """A run that was requested now, or earlier with the same key."""

    run_id: str
    is_new: bool


class Run(BaseModel):
    """A run, and its state now or next."""

    run_id: str
    flow: str
    state: str


class Runs(BaseModel):
    """A part of the runs that have begun."""

    runs: list[Run]


class Group(BaseModel):
    """A group, how many of its runs will not begin, and how many are asked to end."""

    group: str
    cancelled: int
    cancelling: int


class Waiting(BaseModel):
    """Runs that have not begun, and how many are in each state."""

    waiting: list[Run]
    counts: dict[str, int]


class Deed(BaseModel):
    """Something that somebody did."""

    at: str
    who: str
    verb: str
    subject: str
    detail: str


class Deeds(BaseModel):
    """A part of what was done."""

    deeds: list[Deed]


class Problem(BaseModel):
    """Why a request failed."""

    error: str


# Checks ---------------------------------------------------------------------------------------------------------------

A = TypeVar("A", bound=Asked)


def check_asked(model: type[A], value: Any, *, is_query: bool = False) -> A:
    """What was asked, as a model; `Refused` with all its problems if it is something else.

    Parameters
    ----------
    is_query
        Whether the values are texts of a query, which may stand for numbers.
    """
    if isinstance(value, dict):  # pydantic has a problem for each unknown name, of which there may be a million
        unknown = list(islice((name for name in value if name not in model.model_fields), _MOST_PROBLEMS))
        value = {name: value[name] for name in (*unknown, *model.model_fields) if name in value}
    try:
        return model.model_validate_strings(value) if is_query else model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        status = 422 if all(each["type"] == "moment" for each in problems) else 400
        raise Refused(status, "; ".join(_word_problem(each, model) for each in problems[:_MOST_PROBLEMS])) from None


def _word_problem(problem: ErrorDetails, model: type[Asked]) -> str:
    """A problem, in our words where pydantic's are about Python."""
    *above, last = problem["loc"] or ("the body",)
    where = f"{above[0]}[{last}]" if above else str(last)
    if problem["type"] == "extra_forbidden":
        return f"there is no {where!r:.80}; there are: {', '.join(model.model_fields) or 'none'}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    is_object = problem["type"] in ("model_type", "dict_type")
    wanted = "expected an object" if is_object else re.sub(r"^\w+ should ", "must ", problem["msg"])
    return f"{where}: {wanted}, found {short(problem['input'], 80)}"


def status_of(error: AnabranchError) -> int:
    """The HTTP status that says it."""
    if isinstance(error, Refused):
        return error.status
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 409)
