"""The engine: what a flow is run with. Import paths known from Prefect 1 are here too."""

from typing import TYPE_CHECKING

from anabranch.base.prefect1 import getter

if not TYPE_CHECKING:
    __getattr__ = getter("engine")
