"""Dask's settings, kept whole: a block with ``dask.config.set`` takes with it what was loaded within it.

What such a block sets may be in a section that nobody has loaded yet. At its end it removes the whole section, with all
defaults. Without those of distributed, no cluster works any more in the process.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask.config
import yaml


def load_early() -> None:
    """Load the defaults of distributed, which takes a moment, and not distributed itself, which takes a second."""
    spec = find_spec("distributed") if "distributed" not in sys.modules else None
    file = Path(spec.origin).with_name("distributed.yaml") if spec is not None and spec.origin else None
    if file is not None and file.is_file():
        dask.config.update_defaults(read(file.read_bytes()))


def read(text: str | bytes) -> Any:
    """What a YAML file says."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where it was compiled
    return yaml.load(text, loader)


def restore() -> None:
    """Put back what is missing of all settings that were ever loaded; what there is stays as it is.

    Our own have sources that Dask does not know: see `anabranch.base.settings`.
    """
    defaults = [each for each in dask.config.defaults if "anabranch" not in each]
    if any(_lacks(dask.config.global_config, each) for each in defaults):
        found: dict[str, Any] = {}
        dask.config.refresh(config=found)
        found.pop("anabranch", None)
        with dask.config.config_lock:
            dask.config.update(dask.config.global_config, found, priority="old")


def _lacks(config: dict[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether a setting is missing."""
    for key, default in defaults.items():
        name = dask.config.canonical_name(key, config)
        if name not in config:
            return True
        if isinstance(default, Mapping) and isinstance(config[name], dict) and _lacks(config[name], default):
            return True
    return False
