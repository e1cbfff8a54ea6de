"""What every result does, whatever store is below it; a new backend is a class of a few lines."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from anabranch.base.settings import config
from anabranch.errors import (
    LocationError,
    ResultConflict,
    ResultDamaged,
    ResultMissing,
    ResultStoreError,
    UnstorableValueError,
)
from anabranch.results import FileResult, InMemoryResult, JSONSerializer, LocalResult, Result, SQLResult
from anabranch.results.store import Store

IDS = {"flow": "etl", "task": "parse"}
KEY = "correct horse battery staple"
LOADED: list[int] = []
"""Numbers of the `Witness`es that were loaded."""


class Witness:
    """Tells when it is loaded, as a planted pickle would do worse."""

    def __init__(self, number: int, weight: int = 0) -> None:
        self.number = number
        self.ballast = bytes(weight)

    def __reduce__(self) -> tuple[Any, ...]:
        return witness, (self.number, self.ballast)


def witness(number: int, ballast: bytes) -> Witness:
    LOADED.append(number)
    return Witness(number, len(ballast))


class Plant:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


class ResultContract:
    """The tests; a backend gives the fixture `result`, whose store is empty."""

    @pytest.mark.parametrize(
        "value", [None, 0, "", [1, {"a": (2.5, b"\0")}], ValueError("no"), "\ud800", b"x" * 300_000]
    )
    def test_what_was_written_is_read(self, result: Result, value: object):
        ref = result.write("a/b.c", value, IDS)
        for found in (result.read(ref, IDS), result.read("a/b.c", IDS), result.read("a/b.c")):
            assert type(found) is type(value)
            assert found == value or (isinstance(value, Exception) and found.args == value.args)

    def test_a_reference_and_the_header_say_what_it_is(self, result: Result):
        ref = result.write("etl/parse", {"rows": [1, 2]}, IDS)
        assert (ref.location, ref.serializer, ref.type_name, ref.repr) == (
            "etl/parse",
            "pickle",
            "dict",
            "{'rows': [1, 2]}",
        )
        assert ref.nbytes == len(pickle.dumps({"rows": [1, 2]}, protocol=5))
        assert ref.width is None
        assert result.info("etl/parse") == ref
        assert pickle.loads(pickle.dumps(ref)) == ref

    def test_the_header_says_so_without_loading_the_value(self, result: Result):
        LOADED.clear()
        result.write("w", Witness(1))
        LOADED.clear()  # what a serializer takes it has loaded once, to see that it can
        result.info("w")
        assert result.exists("w")
        assert LOADED == []
        assert result.read("w").number == 1
        assert LOADED == [1]

    def test_a_header_of_many_names_is_found_too(self, result: Result):
        ids = {f"name{i}": "x" * 50 for i in range(200)}
        ref = result.write("long", 1, ids)
        assert result.info("long") == ref
        assert result.read(ref, ids) == 1

    def test_none_stored_is_not_the_same_as_nothing_stored(self, result: Result):
        result.write("none", None)
        assert result.exists("none")
        assert result.read("none") is None
        assert not result.exists("nothing")
        assert result.info("nothing") is None
        with pytest.raises(ResultMissing, match="there is no result 'nothing/at/all' in"):
            result.read("nothing/at/all")

    def test_the_first_of_two_writers_wins_and_the_second_learns_its_reference(self, result: Result):
        first = result.write("x", "first", IDS)
        assert result.write("x", "second", IDS) == first
        assert result.read(first, IDS) == "first"

    def test_a_writer_that_says_so_wins_over_what_is_there(self, result: Result):
        first = result.write("x", "first", IDS)
        second = result.write("x", "second", {"task": "other"}, overwrite=True)
        assert result.read(second) == "second"
        with pytest.raises(ResultDamaged, match="'x' is not the one that was recorded"):
            result.read(first)

    def test_of_many_writers_at_once_one_wins_and_all_know_which(self, result: Result):
        n = 6
        together = Barrier(n)

        def write(number: int) -> Any:
            together.wait()
            return result.write("race", number, IDS)

        with ThreadPoolExecutor(n) as pool:
            refs = set(pool.map(write, range(n)))
        assert len(refs) == 1
        assert result.read(refs.pop(), IDS) in range(n)

    def test_a_result_is_read_for_its_own_task_only(self, result: Result):
        ref = result.write("x", 1, IDS)
        other = {"flow": "etl", "task": "total"}
        with pytest.raises(ResultDamaged, match=r"'x' is that of .*parse.*, not of .*total"):
            result.read(ref, other)

    def test_a_result_that_was_copied_to_another_task_is_refused(self, result: Result):
        result.write("a", 1, IDS)
        result.store.put("b", [result.store.get("a")], replace=False)
        with pytest.raises(ResultDamaged, match=r"'b' is that of .*parse"):
            result.read("b", {"flow": "etl", "task": "total"})

    def test_a_place_that_is_somebody_elses_is_not_taken(self, result: Result):
        result.write("x", 1, IDS)
        with pytest.raises(ResultConflict, match=r"'x' has the result of .*parse.*total.*overwrite=True"):
            result.write("x", 2, {"flow": "etl", "task": "total"})
        with pytest.raises(ResultConflict):
            result.write_elements("x", [0], [2], IDS)
        assert result.read("x", IDS) == 1

    def test_a_value_that_cannot_be_stored_leaves_nothing(self, result: Result):
        with pytest.raises(UnstorableValueError, match="of type generator cannot be stored by PickleSerializer"):
            result.write("x", (i for i in [1]))
        assert not result.exists("x")

    # Damage

    def test_no_flipped_bit_gives_a_wrong_value(self, result: Result):
        result.write("x", "the value", IDS)
        whole = result.store.get("x")
        for position in range(0, len(whole), 1 if isinstance(result, InMemoryResult) else 17):
            changed = bytearray(whole)
            changed[position] ^= 1 << position % 8
            result.store.put("x", [bytes(changed)], replace=True)
            with pytest.raises(ResultDamaged, match="'x'"):
                result.read("x", IDS)
        result.store.put("x", [whole[:-1], bytes([whole[-1] ^ 1])], replace=True)
        with pytest.raises(ResultDamaged, match="its checksum does not match"):
            result.read("x", IDS)

    def test_no_truncation_gives_a_wrong_value(self, result: Result):
        result.write("x", "the value", IDS)
        whole = result.store.get("x")
        for nbytes in range(0, len(whole), 1 if isinstance(result, InMemoryResult) else 23):
            result.store.put("x", [whole[:nbytes]], replace=True)
            with pytest.raises(ResultDamaged, match="'x'"):
                result.read("x", IDS)
            if nbytes < 80:  # of the rest, the header says nothing that it should not
                with pytest.raises(ResultDamaged, match="'x'"):
                    result.info("x")

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "'x' is damaged: it is empty"),
            (b"PK\x03\x04 an archive", "'x' is not a result of anabranch: it begins with"),
            (
                b"\x89ANB\r\n\x1a\n\x00\x02" + bytes(90),
                "'x' has format 2, of another version of anabranch; this one reads 1",
            ),
            (b"\x89ANB\r\n\x1a\n\x00\x01\xff\xff\xff\xff" + bytes(90), "'x' is damaged: its header cannot have"),
        ],
    )
    def test_what_is_no_result_is_told_as_what_it_is(self, result: Result, data: bytes, words: str):
        result.store.put("x", [data], replace=True)
        assert result.exists("x")
        with pytest.raises(ResultDamaged, match=words):
            result.read("x")
        with pytest.raises(ResultDamaged, match=words):
            result.info("x")

    def test_more_after_the_end_is_damage(self, result: Result):
        result.write("x", 1)
        result.store.put("x", [result.store.get("x"), b"more"], replace=True)
        with pytest.raises(ResultDamaged, match="its body should have"):
            result.read("x")

    def test_a_damaged_result_is_written_again_with_a_warning(self, result: Result, caplog: pytest.LogCaptureFixture):
        result.write("x", 1, IDS)
        result.store.put("x", [result.store.get("x")[:-1]], replace=True)
        with caplog.at_level(logging.WARNING, logger="anabranch"):
            ref = result.write("x", 1, IDS)
        assert result.read(ref, IDS) == 1
        assert "'x' is damaged" in caplog.text

    def test_a_file_that_is_no_result_is_not_written_over(self, result: Result):
        result.store.put("notes.txt", [b"my notes"], replace=False)
        with pytest.raises(ResultConflict, match=r"'notes.txt' is not a result of anabranch.*overwrite=True"):
            result.write("notes.txt", 1)
        assert result.store.get("notes.txt") == b"my notes"
        result.write("notes.txt", 1, overwrite=True)
        assert result.read("notes.txt") == 1

    # Elements

    def test_elements_are_read_by_index(self, result: Result):
        indices = [5, 6, 7, 100, 3]
        ref = result.write_elements("m/3-100", indices, [f"v{i}" for i in indices], IDS)
        assert ref.width == 5
        assert result.info("m/3-100") == ref
        assert result.read_elements(ref, ids=IDS) == {i: f"v{i}" for i in indices}
        assert result.read_elements(ref, [100, 6], IDS) == {100: "v100", 6: "v6"}
        assert result.read_elements(ref, [], IDS) == {}
        with pytest.raises(ResultMissing, match="'m/3-100' has no element 4"):
            result.read_elements(ref, [3, 4], IDS)

    def test_reading_large_elements_loads_no_others(self, result: Result):
        ref = result.write_elements("w", range(40), [Witness(i, 20_000) for i in range(40)])
        LOADED.clear()
        assert [each.number for each in result.read_elements(ref, [7]).values()] == [7]
        assert 7 in LOADED
        assert len(LOADED) <= 4

    def test_one_value_and_elements_are_not_mistaken_for_each_other(self, result: Result):
        result.write("one", [1])
        result.write_elements("many", [0], [1])
        with pytest.raises(ResultDamaged, match="'one' holds one value"):
            result.read_elements("one")
        with pytest.raises(ResultDamaged, match="'many' holds 1 elements"):
            result.read("many")

    def test_no_elements_are_elements_too(self, result: Result):
        assert result.read_elements(result.write_elements("empty", [], [])) == {}

    # Trust

    def test_a_signed_result_is_read_by_who_has_the_key(self, result: Result):
        with config.set(results__key=KEY):
            ref = result.write("x", [1], IDS)
            assert result.read(ref, IDS) == [1]
            assert result.info("x") == ref

    def test_a_planted_pickle_is_not_loaded(self, result: Result, tmp_path: Path):
        marker = tmp_path / "marker"
        result.write("x", "mine", IDS)  # not signed: whoever can write to the store can do that
        plant = InMemoryResult()
        with config.set(results__key="another key of somebody"):
            plant.store.put("y", [_planted(plant, marker)], replace=False)
        result.store.put("y", [plant.store.get("y")], replace=True)
        marker.unlink(missing_ok=True)

        with config.set(results__key=KEY):
            for location, words in (("x", "'x' is not signed"), ("y", "'y' is signed with another key")):
                for read in (result.read, result.read_elements, result.info):
                    with pytest.raises(ResultDamaged, match=words):
                        read(location)
        assert not marker.exists()

    def test_a_planted_pickle_is_not_loaded_where_another_format_was_chosen(self, result: Result, tmp_path: Path):
        marker = tmp_path / "marker"
        result.store.put("x", [_planted(InMemoryResult(), marker)], replace=False)
        marker.unlink(missing_ok=True)
        plain = Result(result.store, serializer=JSONSerializer())
        with pytest.raises(ResultDamaged, match="'x' was written as 'pickle', which can run code"):
            plain.read("x")
        assert not marker.exists()

    def test_without_the_key_a_signed_result_is_no_damage_but_a_mistake(self, result: Result):
        with config.set(results__key=KEY):
            result.write("x", 1)
        with pytest.raises(ResultStoreError, match=r"'x' is signed.*ANABRANCH__RESULTS__KEY"):
            result.read("x")

    def test_a_format_that_runs_no_code_is_read_whatever_is_written_now(self, result: Result):
        Result(result.store, serializer="json+zlib").write("x", {"a": [1]})
        assert result.read("x") == {"a": [1]}

    # The rest

    @pytest.mark.parametrize(
        "location", ["../x", "/x", "a//b", "a/../b", "~/x", "a\\b", "C:x", "a\0b", "", ".", "NUL", "x" * 300]
    )
    def test_a_location_outside_the_store_is_refused_by_everything(self, result: Result, location: str):
        for use in (result.read, result.read_elements, result.exists, result.info, result.delete):
            with pytest.raises(LocationError):
                use(location)
        with pytest.raises(LocationError):
            result.write(location, 1)
        with pytest.raises(LocationError):
            result.write_elements(location, [1], [1])

    def test_what_was_deleted_is_gone(self, result: Result):
        ref = result.write("a/x", 1)
        result.delete("a/x")
        assert not result.exists("a/x")
        with pytest.raises(ResultMissing):
            result.read(ref)
        result.delete("a/x")
        result.delete("never/was")
        result.write("a/x", 2)
        assert result.read("a/x") == 2

    def test_sweeping_leaves_results(self, result: Result):
        result.write("a/x", 1)
        assert result.sweep() == 0
        assert result.read("a/x") == 1

    def test_a_result_that_travels_is_the_same_store(self, result: Result):
        ref = result.write("x", 1)
        copy = pickle.loads(pickle.dumps(result))
        assert copy.read(ref) == 1
        copy.write("y", 2)
        assert result.read("y") == 2
        copy.close()

    def test_names_differ_by_folder_and_case_of_nothing_else(self, result: Result):
        for location in ("a", "b/a", "b/c/a", "b/a.json", "with space/ümlaut"):
            result.write(location, location)
        for location in ("a", "b/a", "b/c/a", "b/a.json", "with space/ümlaut"):
            assert result.read(location) == location


def _planted(result: InMemoryResult, marker: Path) -> bytes:
    """An object as somebody makes it who has this library and writes to the store."""
    result.write("planted", Plant(marker))
    return result.store.get("planted")


class TestLocalResult(ResultContract):
    @pytest.fixture
    def result(self, tmp_path: Path) -> Result:
        return LocalResult(tmp_path / "results")


class TestFileResultOfAFile(ResultContract):
    @pytest.fixture
    def result(self, tmp_path: Path) -> Result:
        return FileResult(f"file://{tmp_path}/results")


class TestFileResultInMemory(ResultContract):
    @pytest.fixture
    def result(self) -> Iterator[Result]:
        result = FileResult(f"memory://{uuid4().hex}/results")
        yield result
        MemoryFileSystem.store.clear()


class Movable(LocalFileSystem):
    """As sftp and others: what is being written can be seen, so that it must get its name afterwards."""

    protocol = "movable"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("movable://")))


class TestFileResultThatMoves(ResultContract):
    test_of_many_writers_at_once_one_wins_and_all_know_which = None  # it cannot promise that, and says so

    @pytest.fixture
    def result(self, tmp_path: Path) -> Result:
        fsspec.register_implementation("movable", Movable, clobber=True)
        return FileResult(f"movable://{tmp_path}/results")

    def test_only_old_temporary_files_are_swept(self, result: Result, tmp_path: Path):
        result.write("a/x", 1)
        old, new = (tmp_path / "results" / "a" / f".anabranch-tmp-{name}" for name in ("old", "new"))
        for file in (old, new):
            file.write_bytes(b"part")
        os.utime(old, (time.time() - 7200,) * 2)
        assert result.sweep() == 1
        assert (old.exists(), new.exists()) == (False, True)

    def test_a_write_that_fails_leaves_no_file(self, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def fail(*args: Any, **kwargs: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Movable, "mv", fail)
        with pytest.raises(ResultStoreError, match="no space left"):
            result.write("a/x", 1)
        assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == []


class TestInMemoryResult(ResultContract):
    @pytest.fixture
    def result(self) -> Result:
        return InMemoryResult()


class TestSQLResultOfSQLite(ResultContract):
    @pytest.fixture
    def result(self, tmp_path: Path) -> Iterator[Result]:
        result = SQLResult(f"sqlite:///{tmp_path}/new/results.db")
        yield result
        result.close()


class FaultyStore:
    """A store that raises at its k-th call, before or after doing what it was asked for."""

    def __init__(self, inner: Store, k: int, *, is_done: bool) -> None:
        self.inner = inner
        self.k = k
        self.is_done = is_done
        self.n_calls = 0

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.n_calls += 1
            if self.n_calls == self.k and not self.is_done:
                raise ConnectionError("cut")
            outcome = getattr(self.inner, name)(*args, **kwargs)
            if self.n_calls == self.k:
                raise ConnectionError("cut")
            return outcome

        return call

    def __repr__(self) -> str:
        return "faulty"


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("k", range(1, 9))
def test_after_a_fault_at_any_call_writing_again_gives_the_right_value(k: int, is_done: bool):
    inner = InMemoryResult()
    inner.write("b", 0, IDS)
    inner.store.put("b", [inner.store.get("b")[:-1]], replace=True)
    store = FaultyStore(inner.store, k, is_done=is_done)
    result = Result(store)
    n_errors = 0
    for _ in range(2):
        for location in ("a", "b"):
            try:
                assert result.read(result.write(location, 1, IDS), IDS) == 1
            except ResultStoreError as error:
                assert "in faulty: ConnectionError: cut" in str(error)  # noqa: PT017  # most calls raise nothing
                n_errors += 1
    assert n_errors == (k <= store.n_calls)
    assert inner.read("a", IDS) == inner.read("b", IDS) == 1
