"""Names of Prefect 1 that are not here: they can be imported, and say what there is in place of them when used."""

from __future__ import annotations

from typing import Any, NoReturn

from anabranch.base.errors import PrefectNameError
from anabranch.base.prefect1 import row_of
from anabranch.base.where import caller


def told(name: str, place: str) -> str:
    """What there is in place of a name that Prefect 1 has in a module."""
    parts = place.split(".")
    modules = [f"prefect.{'.'.join(parts[:n])}.*" for n in range(len(parts), 0, -1)]
    row = row_of(name, f"{parts[-1]}.{name}", *modules)
    return str(row) if row is not None else "there is none here: it is inside Prefect"


class Missing:
    """Stands for a name that is not here. Nothing is an instance of it; whatever else is done with it is refused."""

    def __init__(self, name: str, place: str) -> None:
        self._name, self._place = name, place

    def __repr__(self) -> str:
        return f"<{self._name} of Prefect 1, which is not here>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Missing, (self._name, self._place)

    def __instancecheck__(self, instance: object) -> bool:
        return False

    def _refuse(self) -> NoReturn:
        place = f"prefect.{self._place}" if self._place else "prefect"
        raise PrefectNameError(f"{place}.{self._name} is used ({caller()}); {told(self._name, self._place)}")

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse."""
        self._refuse()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # copy, pickle and inspect ask for methods that are not there
            raise AttributeError(name)
        self._refuse()

    def __getitem__(self, key: object) -> NoReturn:
        self._refuse()

    def __mro_entries__(self, bases: object) -> NoReturn:
        self._refuse()

    def __enter__(self) -> NoReturn:
        self._refuse()

    def __exit__(self, *exc_info: object) -> None:
        """Never reached: nothing enters."""
