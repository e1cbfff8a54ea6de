"""Settings: where they come from, what is refused, and that assignments take effect."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
import typing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.config
import pytest

from anabranch.base import settings
from anabranch.base.settings import config
from anabranch.errors import AnabranchError, SettingError


class World:
    """Files and variables that settings are read from, empty to begin with."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.local = root / "here" / "anabranch.yaml"
        self.searched = root / "search" / "anything.yaml"
        self.setenv = patch.setenv
        for file in (self.local, self.searched):
            file.parent.mkdir()
        patch.chdir(self.local.parent)
        for variable in [name for name in os.environ if "ANABRANCH__" in name]:
            patch.delenv(variable)


@pytest.fixture(autouse=True)
def world(tmp_path: Path) -> Iterator[World]:
    """A world in which only the defaults count; the real one comes back afterwards."""
    paths = dask.config.paths[:]
    with pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path, patch)
        # The list itself, because functions of dask.config have it as their default argument.
        dask.config.paths[:] = [str(world.searched.parent)]
        config.refresh()
        yield world
    dask.config.paths[:] = paths
    config.refresh()


def in_new_process(code: str, **environment: str) -> str:
    """What a script prints, on both streams."""
    outcome = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return outcome.stdout


# Where values come from


def test_defaults_are_those_of_the_file():
    assert config.backend == "local"
    assert config.checkpointing is False
    assert config.progress == "auto"
    assert config.logging.level == "INFO"
    assert config.engine.max_losses == 3
    assert config.engine.inline_nbytes == 16 * 1024
    assert config.engine.chunk_nbytes == 64 * 1024 * 1024
    assert config.engine.target_chunk_s == 0.15
    assert config.engine.max_width == 10_000_000


def test_each_stronger_source_wins_over_the_weaker(world: World):
    text = "anabranch:\n  engine:\n    max_losses: {}\n"

    world.searched.write_text(text.format(11))
    config.refresh()
    assert config.engine.max_losses == 11

    world.local.write_text(text.format(12))
    config.refresh()
    assert config.engine.max_losses == 12

    world.setenv("DASK_ANABRANCH__ENGINE__MAX_LOSSES", "13")
    config.refresh()
    assert config.engine.max_losses == 13

    world.setenv("ANABRANCH__ENGINE__MAX_LOSSES", "14")
    config.refresh()
    assert config.engine.max_losses == 14

    config.engine.max_losses = 15
    assert config.engine.max_losses == 15


def test_a_source_says_nothing_about_what_it_leaves_out(world: World):
    world.local.write_text("anabranch:\n  engine:\n  #  max_losses: 1\n  backend: sqlite:///runs.db\n")
    config.refresh()
    assert config.backend == "sqlite:///runs.db"
    assert config.engine.max_losses == 3


def test_hyphens_in_files_mean_underscores(world: World):
    world.searched.write_text("anabranch:\n  engine:\n    max-losses: 4\n    chunk-nbytes: 1000\n")
    world.local.write_text("anabranch:\n  engine:\n    max-losses: 5\n")
    config.refresh()
    assert config.engine.max_losses == 5
    assert config.engine.chunk_nbytes == 1000
    assert config.snapshot()["engine"]["max_losses"] == 5


def test_text_from_the_environment_stays_text(world: World):
    world.setenv("ANABRANCH__BACKEND", "postgresql://host/db")
    world.setenv("ANABRANCH__CHECKPOINTING", "true")
    world.setenv("ANABRANCH__ENGINE__WATCHDOG_S", "5")
    config.refresh()
    assert config.backend == "postgresql://host/db"
    assert config.checkpointing is True
    assert config.engine.watchdog_s == 5


def test_dask_config_and_the_view_are_the_same_thing():
    with dask.config.set({"anabranch.engine.max-losses": 9}):
        assert config.engine.max_losses == 9
    config.engine.probe_elements = 8
    assert dask.config.get("anabranch.engine.probe_elements") == 8


def test_the_rest_keeps_its_defaults_when_dask_config_replaces_the_whole():
    with dask.config.set({"anabranch": {"checkpointing": True}}):
        assert config.checkpointing is True
        assert config.engine.max_losses == 3
        assert config.snapshot()["backend"] == "local"


def test_what_was_set_before_the_import_counts_as_assigned():
    code = """if True:
        import dask
        dask.config.set({"anabranch.backend": "sqlite:///assigned.db"})
        from anabranch.base.settings import config
        print(config.backend, config.engine.max_losses)
    """
    printed = in_new_process(code, ANABRANCH__BACKEND="sqlite:///env.db", ANABRANCH__ENGINE__MAX_LOSSES="6")
    assert printed.split() == ["sqlite:///assigned.db", "6"]


def test_a_worker_keeps_the_settings_of_its_driver():
    code = "from anabranch.base.settings import config; print(config.engine.max_losses, config.backend)"
    inherited = dask.config.serialize({"anabranch": {"engine": {"max_losses": 8}}})
    printed = in_new_process(
        code,
        DASK_INTERNAL_INHERIT_CONFIG=inherited,
        ANABRANCH__ENGINE__MAX_LOSSES="6",
        ANABRANCH__BACKEND="sqlite:///env.db",
    )
    assert printed.split() == ["8", "sqlite:///env.db"]


# Assigning


def test_settings_can_be_set_for_a_while():
    with config.set({"engine.max_losses": 7}, engine__probe_elements=2, checkpointing=True) as inside:
        assert inside is not None
        assert (config.engine.max_losses, config.engine.probe_elements, config.checkpointing) == (7, 2, True)
    assert (config.engine.max_losses, config.engine.probe_elements, config.checkpointing) == (3, 64, False)


def test_set_without_with_stays():
    config.set({"engine": {"max_losses": 7}})
    assert config.engine.max_losses == 7


def test_set_changes_all_or_nothing():
    with pytest.raises(SettingError):
        config.set({"engine.max_losses": 7, "engine.chunk_nbytes": "big"})
    assert config.engine.max_losses == 3


def test_refresh_forgets_assignments():
    config.engine.max_losses = 7
    config.refresh()
    assert config.engine.max_losses == 3


def test_refresh_leaves_the_settings_of_others_alone():
    with dask.config.set({"somebody.else": 1}):
        config.refresh()
        assert dask.config.get("somebody.else") == 1


def test_snapshot_is_a_copy():
    before = config.snapshot()
    config.engine.max_losses = 7
    assert before["engine"]["max_losses"] == 3
    assert config.snapshot()["engine"]["max_losses"] == 7
    sections = {"logging", "engine", "results", "runs", "retention", "secrets", "service"}
    assert set(before) == {"backend", "checkpointing", "progress", "scheduler_page", *sections}
    assert all(type(part) is dict for part in (before, before["engine"], before["logging"]))


# What is refused


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("engine.max_loses", "did you mean 'engine.max_losses'?"),
        ("max_losses", "did you mean 'engine.max_losses'?"),
        ("engin", "did you mean 'engine'?"),
        ("zzz", "anabranch has: 'backend', 'checkpointing', 'progress', 'scheduler_page', 'logging'"),
        ("logging.zzz", "logging has: 'level', 'format'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, hint: str):
    *sections, leaf = name.split(".")
    place = getattr(config, sections[0]) if sections else config
    with pytest.raises(SettingError) as reading:
        getattr(place, leaf)
    with pytest.raises(SettingError) as assigning:
        setattr(place, leaf, 1)
    assert str(reading.value) == str(assigning.value)
    assert f"there is no setting {name!r}" in str(reading.value)
    assert hint in str(reading.value)
    assert isinstance(reading.value, AttributeError)
    assert isinstance(reading.value, AnabranchError)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("checkpointing", 1, "expected true or false; found 1 (int)"),
        ("checkpointing", "yes", "expected true or false; found 'yes' (str)"),
        ("backend", 5, "expected 'local', 'none' or a database URL; found 5 (int)"),
        ("backend", "server", "expected 'local', 'none' or a database URL; found 'server' (str)"),
        ("backend", None, "expected 'local', 'none' or a database URL; found None (NoneType)"),
        ("progress", True, "expected one of 'auto', 'always', 'never'; found True (bool)"),
        ("logging.level", "LOUD", "expected one of 'DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'; found 'LOUD'"),
        ("logging.level", 10, "found 10 (int)"),
        ("logging.format", "%(nope)s", "'nope'"),
        ("logging.format", "no fields", "expected a %-style format"),
        ("logging.format", 3, "expected a %-style format of the logging module; found 3 (int)"),
        ("engine.max_losses", 1.5, "expected a whole number, zero or more; found 1.5 (float)"),
        ("engine.max_losses", True, "expected a whole number, zero or more; found True (bool)"),
        ("engine.max_losses", -1, "expected a whole number, zero or more; found -1 (int)"),
        ("engine.probe_elements", 0, "expected a whole number, more than zero; found 0 (int)"),
        ("engine.target_chunk_s", "fast", "expected a number, more than zero; found 'fast' (str)"),
        ("engine.target_chunk_s", float("nan"), "expected a number, more than zero; found nan (float)"),
        ("engine.watchdog_s", float("inf"), "expected a number, more than zero; found inf (float)"),
        ("engine", 5, "'engine' is a section, not a setting; it has: 'max_losses'"),
    ],
)
def test_wrong_values_are_refused_with_what_was_expected(name: str, value: object, expected: str):
    with pytest.raises(SettingError) as refusal:
        config.set({name: value})
    assert name in str(refusal.value)
    assert expected in str(refusal.value)
    assert config.snapshot() == settings._nested(settings._DEFAULTS)


@pytest.mark.parametrize("value", [2, 0.5])
def test_whole_numbers_do_for_numbers(value: float):
    config.engine.watchdog_s = value
    assert config.engine.watchdog_s == value


def test_all_mistakes_in_files_and_environment_are_reported_at_once_with_their_places(world: World):
    world.searched.write_text("anabranch:\n  checkpointing: often\n")
    world.local.write_text("anabranch:\n  engine:\n    chunk_bytes: 5\n")
    world.setenv("ANABRANCH__ENGINE__MAX_LOSSES", "three")
    world.setenv("ANABRANCH__ENGINE", "5")
    world.setenv("DASK_ANABRANCH__ENGNE__WATCHDOG_S", "5")
    with pytest.raises(SettingError) as at_refresh:
        config.refresh()
    with pytest.raises(SettingError) as at_reading:
        print(config.backend)
    lines = str(at_refresh.value).splitlines()
    assert str(at_reading.value).splitlines() == lines
    assert len(lines) == 5
    found = "\n".join(lines)
    assert f"found 'often' (str) (from {world.searched})" in found
    assert "'engine.chunk_bytes'; did you mean 'engine.chunk_nbytes'" in found
    assert f"(from {world.local})" in found
    assert "found 'three' (str) (from ANABRANCH__ENGINE__MAX_LOSSES)" in found
    assert "'engine' is a section" in found
    assert "(from ANABRANCH__ENGINE)" in found
    assert "(from DASK_ANABRANCH__ENGNE__WATCHDOG_S)" in found


def test_a_wrong_value_that_something_stronger_replaces_does_no_harm(world: World):
    world.local.write_text("anabranch:\n  checkpointing: often\n")
    world.setenv("ANABRANCH__CHECKPOINTING", "true")
    config.refresh()
    assert config.checkpointing is True


def test_a_local_file_that_others_can_write_to_is_not_read(world: World):
    world.local.write_text("anabranch: {engine: {max_losses: 7}}")
    world.local.chmod(0o646)
    config.refresh()
    assert config.engine.max_losses == 3
    assert settings.explain_unread().endswith(f"because others can write to it; chmod o-w {world.local}")
    world.local.chmod(0o664)
    config.refresh()
    assert config.engine.max_losses == 7
    assert settings.explain_unread() == ""


@pytest.mark.parametrize("kind", ["file", "link to a file of the user's", "file that is no YAML"])
def test_a_local_file_of_another_user_is_not_read(world: World, kind: str, monkeypatch: pytest.MonkeyPatch):
    # given
    if "link" in kind:
        own = world.local.with_name("own")
        own.write_text("anabranch: {engine: {max_losses: 7}}")
        world.local.symlink_to(own)
    else:
        world.local.write_text("anabranch: [" if "no YAML" in kind else "anabranch: {engine: {max_losses: 7}}")
    if os.getuid() == 0:
        os.chown(world.local, 12345, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    # when
    config.refresh()
    # then
    assert config.engine.max_losses == 3
    assert f"is not read, because it is another user's; chown {os.getuid()} {world.local}" in settings.explain_unread()


def test_a_process_says_that_a_file_is_not_read(world: World):
    world.local.write_text("anabranch: {engine: {max_losses: 7}}")
    world.local.chmod(0o646)
    said = in_new_process("import anabranch; print(anabranch.config.engine.max_losses)")
    assert said.count("is not read, because others can write to it") == 1
    assert said.endswith("3\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backend: local\n", "expected settings below the heading 'anabranch:'; found 'backend'"),
        ("anabranch: 5\n", "expected settings below the heading 'anabranch:'"),
        ("- backend\n", "must have a dict as the top level object"),
        ("anabranch: [\n", "malformed"),
    ],
)
def test_a_local_file_that_cannot_be_used_is_refused(world: World, text: str, expected: str):
    world.local.write_text(text)
    world.setenv("ANABRANCH__CHECKPOINTING", "often")  # and does not hide other mistakes
    with pytest.raises(SettingError) as refusal:
        config.refresh()
    assert expected in str(refusal.value)
    assert "anabranch.yaml" in str(refusal.value)
    assert "ANABRANCH__CHECKPOINTING" in str(refusal.value)


@pytest.mark.parametrize("text", ["", "anabranch:\n", "# nothing\n"])
def test_an_empty_local_file_is_fine(world: World, text: str):
    world.local.write_text(text)
    config.refresh()
    assert config.backend == "local"


def test_a_mistake_in_the_environment_does_not_fail_the_import():
    code = """if True:
        from anabranch.base.settings import config
        print("imported")
        try:
            config.backend
        except AttributeError as error:
            print(error)
    """
    first, second = in_new_process(code, ANABRANCH__ENGINE__MAX_LOSSES="three").splitlines()
    assert first == "imported"
    assert second.endswith("found 'three' (str) (from ANABRANCH__ENGINE__MAX_LOSSES)")


def test_wrong_values_that_dask_config_let_in_are_refused_when_read():
    with dask.config.set({"anabranch.engine.max_losses": "x", "anabranch.bogus": 1}):
        with pytest.raises(SettingError, match=r"'engine.max_losses': .* found 'x' \(str\) \(from dask.config"):
            print(config.engine.max_losses)
        with pytest.raises(SettingError):
            config.snapshot()
    with (
        dask.config.set({"anabranch.xyzzy": 1}),
        pytest.raises(SettingError, match="there is no setting 'xyzzy'; anabranch has"),
    ):
        config.snapshot()


# Logging


def test_the_level_takes_effect_at_once_and_goes_back():
    logger = logging.getLogger("anabranch")
    assert logger.level == logging.INFO
    with config.set(logging__level="debug"):
        assert logger.level == logging.DEBUG
    assert logger.level == logging.INFO
    config.logging.level = "ERROR"
    assert logger.level == logging.ERROR


def test_apply_logging_follows_dask_config():
    with dask.config.set({"anabranch.logging.level": "WARNING"}):
        settings.apply_logging()
        assert logging.getLogger("anabranch").level == logging.WARNING
    settings.apply_logging()


def test_log_lines_reach_a_terminal_that_nobody_else_writes_to():
    code = """if True:
        import logging
        from anabranch.base.settings import config
        log = logging.getLogger("anabranch.somewhere")
        config.logging.format = "ours: %(message)s"
        log.info("one")
        log.debug("two")
        config.logging.level = "DEBUG"
        log.debug("three")
        logging.basicConfig(format="theirs: %(message)s")
        log.debug("four")
    """
    assert in_new_process(code).splitlines() == ["ours: one", "ours: three", "theirs: four"]


def test_a_handler_of_the_application_on_our_logger_silences_our_own():
    code = """if True:
        import logging, sys
        import anabranch.base.settings
        log = logging.getLogger("anabranch")
        log.addHandler(logging.StreamHandler(sys.stdout))
        log.info("once")
    """
    assert in_new_process(code).splitlines() == ["once"]


# The view


def test_the_annotations_and_the_file_have_the_same_settings():
    parts = ("", "logging", "engine", "results", "runs", "retention", "secrets", "service")
    annotated = {
        f"{prefix}{name}": hint
        for prefix, view in [(f"{part}." if part else "", getattr(config, part) if part else config) for part in parts]
        for name, hint in typing.get_type_hints(type(view)).items()
        if not name.startswith("_") and not issubclass(hint, settings.Section)
    }
    assert annotated == {name: type(value) for name, value in settings._DEFAULTS.items()}


def test_every_text_has_a_rule_and_every_exception_from_the_rules_exists():
    assert set(settings._TEXTS) == {name for name, value in settings._DEFAULTS.items() if isinstance(value, str)}
    assert set(settings._DEFAULTS) > settings._MAY_BE_ZERO


def test_the_view_can_be_shown_listed_copied_and_pickled():
    assert "max_losses=3" in repr(config)
    assert {"backend", "engine", "set", "snapshot"} <= set(dir(config))
    assert {"max_losses", "watchdog_s"} <= set(dir(config.engine))
    for clone in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert clone.engine.max_losses == 3
    assert not hasattr(config, "_repr_html_")


def test_many_threads_may_read_while_one_assigns():
    seen: set[int] = set()

    def read() -> None:
        for _ in range(500):
            seen.add(config.engine.max_losses)
            seen.add(config.snapshot()["engine"]["max_losses"])

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        for i in range(500):
            with config.set(engine__max_losses=100 + i % 2):
                pass
        for reader in readers:
            reader.result()
    assert seen <= {3, 100, 101}
