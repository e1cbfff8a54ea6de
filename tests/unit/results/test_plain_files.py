"""Targets that other programs read: files of their format, from the first byte to the last."""

from __future__ import annotations

import bz2
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from tests.refusals import refused

from anabranch import Flow, config, task
from anabranch.errors import ResultConflict, ResultDamaged, ResultStoreError
from anabranch.results import InMemoryResult, LocalResult, Result, SQLResult
from anabranch.results.plain_files import is_plain, place_beside
from anabranch.results.serializers import BytesSerializer, JSONSerializer, PickleSerializer, by_name

VALUE = {"a": [1, 2]}


def files_in(root: Path) -> list[str]:
    """Files that are no heads of others."""
    names = [str(each.relative_to(root)) for each in root.rglob("*") if each.is_file()]
    return sorted(name for name in names if not name.endswith(".anabranch"))


@pytest.mark.parametrize(
    ("location", "serializer", "is_file"),
    [
        ("a/x.json", "json", True),
        ("x.JSON", "json", True),
        ("x.txt", "json", False),
        ("x.json/0-3", "json", False),
        ("x.png", "bytes", True),
        ("x", "bytes", False),
        ("x.y/z", "bytes", False),
        ("x.parquet", "json", False),
        ("x.json.bz2", "json+bz2", True),
        ("x.json.xz", "json+lzma", True),
        ("x.json.zz", "json+zlib", False),
        ("x.pkl", "pickle", False),
        ("x.json.bz2", "pickle+bz2", False),
    ],
)
def test_name_and_serializer_make_a_file_of_a_known_format(location: str, serializer: str, is_file: bool):
    assert is_plain(location, by_name(serializer)) is is_file


@pytest.mark.parametrize(
    ("name", "serializer", "value", "read"),
    [
        ("x.json", "json", VALUE, lambda path: json.loads(path.read_text())),
        ("x.png", "bytes", b"\x89PNG...", Path.read_bytes),
        ("x.json.bz2", "json+bz2", VALUE, lambda path: json.loads(bz2.decompress(path.read_bytes()))),
        ("x.json.xz", "json+lzma", VALUE, lambda path: json.loads(lzma.decompress(path.read_bytes()))),
    ],
)
def test_another_program_reads_what_a_task_has_written(
    name: str, serializer: str, value: Any, read: Any, tmp_path: Path
):
    # given
    ran = []

    @task(target=f"deep/{name}")
    def make() -> Any:
        ran.append(1)
        return value

    with Flow("f", result=LocalResult(str(tmp_path), serializer=serializer)) as flow:
        node = make()
    # when
    first, second = flow.run(), flow.run()
    # then
    assert read(tmp_path / "deep" / name) == value
    assert (first.result[node].result, second.result[node].result, len(ran)) == (value, value, 1)
    assert second.result[node].is_cached()
    assert files_in(tmp_path) == [f"deep/{name}"]


def test_frames_are_files_of_parquet_and_csv(tmp_path: Path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    from anabranch.prefect.stored_values import PandasSerializer

    frame = pd.DataFrame({"x": [1, 2], "y": [0.5, 1.5]})
    LocalResult(str(tmp_path), serializer="parquet").write("x.parquet", frame)
    csv = LocalResult(str(tmp_path), serializer=PandasSerializer("csv", serialize_kwargs={"index": False}))
    ref = csv.write("x.csv", frame)
    assert pd.read_parquet(tmp_path / "x.parquet").equals(frame)
    assert (tmp_path / "x.csv").read_text() == "x,y\n1,0.5\n2,1.5\n"
    assert csv.read(ref).equals(frame)


def test_each_element_of_a_map_is_a_file(tmp_path: Path):
    @task(target="{map_index}.json")
    def square(x: int) -> int:
        return x * x

    with Flow("f", result=LocalResult(str(tmp_path), serializer="json")) as flow:
        node = square.map([1, 2, 3])
    assert flow.run().result[node].result == flow.run().result[node].result == [1, 4, 9]
    assert [(tmp_path / f"{i}.json").read_text() for i in range(3)] == ["1", "4", "9"]


@pytest.fixture(params=["local", "memory", "sql"])
def result(request: pytest.FixtureRequest, tmp_path: Path) -> Result:
    """Of every kind that needs no server."""
    if request.param == "sql":
        pytest.importorskip("sqlalchemy")
        return SQLResult(f"sqlite:///{tmp_path}/x.db", serializer="json")
    return InMemoryResult(serializer="json") if request.param == "memory" else LocalResult(tmp_path, serializer="json")


def test_a_file_is_all_that_another_object_is(result: Result):
    ref = result.write("x.json", VALUE, {"task": "a"})
    assert result.store.get("x.json") == b'{"a":[1,2]}'
    assert result.write("x.json", {"other": 1}, {"task": "a"}) == ref
    assert (result.read(ref), result.read("x.json", {"task": "a"}), result.info("x.json")) == (VALUE, VALUE, ref)
    result.check(ref)
    result.check(ref, whole=False)
    value, again, _ = result.read_dated("x.json", data=result.fetch(["x.json"])["x.json"])
    assert (value, again) == (VALUE, ref)
    with pytest.raises(ResultDamaged, match="is that of"):
        result.read("x.json", {"task": "b"})
    with pytest.raises(ResultConflict):
        result.write("x.json", VALUE, {"task": "b"})
    newer = result.write("x.json", [1] * 9_000, {"task": "b"}, overwrite=True)
    assert (result.read(newer), result.info("x.json")) == ([1] * 9_000, newer)
    with pytest.raises(ResultDamaged, match="was written again"):
        result.read(ref)
    result.delete("x.json")
    assert (result.exists("x.json"), result.info("x.json")) == (False, None)
    assert not any(result.store.exists(place_beside("x.json", each.checksum)) for each in (ref, newer))
    result.delete("x.json")


def test_what_is_left_of_a_file_that_is_gone_is_not_in_the_way(result: Result):
    ref = result.write("x.json", VALUE, {"task": "a"})
    result.store.delete("x.json")
    result.write("x.json", VALUE, {"task": "b"})
    assert result.read("x.json", {"task": "b"}) == VALUE
    assert result.read(ref) == VALUE


def test_what_others_have_written_or_changed_is_left_alone(result: Result):
    result.write("x.json", VALUE)
    result.store.put("x.json", [b'{"a":[1,3]}'], replace=True)
    with pytest.raises(ResultDamaged, match=r"'x\.json' is not a result of anabranch"):
        result.read("x.json")
    with pytest.raises(ResultConflict, match="remove it, choose another location, or set overwrite=True"):
        result.write("x.json", VALUE)
    with pytest.raises(ResultConflict):
        result.check_owner("x.json", {}, result.store.get("x.json"))
    assert result.read(result.write("x.json", VALUE, overwrite=True)) == VALUE


def test_what_was_written_before_files_were_plain_is_read(tmp_path: Path):
    packed = LocalResult(tmp_path, serializer="json+zlib")
    ref = packed.write("x.json", VALUE)
    assert LocalResult(tmp_path, serializer="json").read(ref) == VALUE


def test_signatures_hold_for_plain_files(tmp_path: Path):
    result = LocalResult(tmp_path, serializer=JSONSerializer())
    with config.set({"results.key": "k" * 32}):
        result.write("x.json", VALUE)
        assert result.read("x.json") == VALUE
    with pytest.raises(ResultStoreError, match="is signed, and this process has no"):
        result.read("x.json")
    LocalResult(tmp_path, serializer=BytesSerializer()).write("y.bin", b"x")
    with config.set({"results.key": "k" * 32}), refused(ResultDamaged, "is not signed", at=""):
        result.read("y.bin")


def test_pickles_keep_their_head(tmp_path: Path):
    LocalResult(tmp_path, serializer=PickleSerializer()).write("x.pkl", 1)
    assert (tmp_path / "x.pkl").read_bytes().startswith(b"\x89ANB")
