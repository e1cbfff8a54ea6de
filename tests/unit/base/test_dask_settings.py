"""Blocks with ``dask.config.set`` around what loads settings: nothing is missing after them."""

from __future__ import annotations

import os
import subprocess
import sys

import dask.config
import pytest

from anabranch.base import dask_settings

AROUND = """
import dask
{before}
with dask.config.set({{{name!r}: 0.5}}):
    import anabranch, distributed
    within = dask.config.get({name!r})
from anabranch.base import dask_settings
dask_settings.restore()
losses = anabranch.config.engine.max_losses
print(within, dask.config.get({name!r}, None), dask.config.get("distributed.comm.retry.count"))
print(losses)
"""


@pytest.mark.parametrize("before", ["", "import anabranch"])
@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("distributed.worker.memory.target", "0.6"),
        ("distributed.comm.retry.count", "0"),
        ("distributed.of-a-user", "None"),
        ("array.chunk-size-tolerance", "1.25"),
        ("anabranch.engine.watchdog_s", "30.0"),
    ],
)
def test_a_block_around_the_first_import_takes_nothing_along(before: str, name: str, default: str) -> None:
    code = AROUND.format(before=before, name=name)
    environment = {**os.environ, "ANABRANCH__ENGINE__MAX_LOSSES": "7"}
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert told.stderr == ""
    within, after, count, losses = told.stdout.split()
    assert (within, count, losses) == ("0.5", "0", "7")
    assert after == default


def test_a_cluster_can_be_made_after_a_block_around_the_first_import_of_anabranch() -> None:
    code = "import dask, anabranch\nwith dask.config.set({'distributed.comm.zstd.level': 1}): import distributed\n"
    told = subprocess.run(
        [sys.executable, "-c", code + "print(dask.config.get('distributed.comm.zstd.level'))"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.stdout.split() == ["3"], told.stderr  # without any help: it is there before the block begins


def test_what_somebody_has_set_stays() -> None:
    with dask.config.set({"distributed.worker.memory.target": 0.4}):
        del dask.config.global_config["distributed"]["worker"]["memory"]["spill"]
        dask_settings.restore()
        assert dask.config.get("distributed.worker.memory.spill") == 0.7
        assert dask.config.get("distributed.worker.memory.target") == 0.4
