"""Results and serializers of Prefect 1, and classes of them that users write."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anabranch import results
from anabranch.prefect import Flow, task
from anabranch.prefect.stored_values import (
    AzureResult,
    CompressedSerializer,
    DateTimeSerializer,
    GCSResult,
    LocalResult,
    PandasSerializer,
    PickleSerializer,
    PrefectResult,
    Result,
    S3Result,
    Serializer,
    as_result,
)


class FolderResult(Result):
    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        super().__init__(**options)

    def read(self, location: str) -> Any:
        return self.from_value(self.serializer.deserialize((self.folder / location).read_bytes()))

    def write(self, value_: Any, **kwargs: Any) -> Any:
        new = self.format(**kwargs)
        path = self.folder / new.location
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.serializer.serialize(value_))
        return new

    def exists(self, location: str, **kwargs: Any) -> bool:
        return (self.folder / location.format(**kwargs)).exists()


def test_a_result_of_the_users_own_stores_values_and_finds_targets(tmp_path: Path):
    ran = []

    @task(target="{task_name}.pkl")
    def pour(x: int) -> int:
        ran.append(x)
        return x

    @task(result=FolderResult(tmp_path, location="{task_name}-{x}"), checkpoint=True)
    def stir(x: int) -> int:
        return x + 1

    with Flow("f", result=FolderResult(tmp_path)) as flow:
        node, other = pour(3), stir.map([1, 2])
    for _ in range(2):
        state = flow.run()
        assert (state.result[node].result, state.result[other].result) == (3, [2, 3])
    assert ran == [3]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pour.pkl", "stir-1", "stir-2"]


def test_as_a_store_it_does_what_stores_do(tmp_path: Path):
    store = as_result(FolderResult(tmp_path)).store
    assert (store.put("a/b", [b"1", b"2"], replace=False), store.put("a/b", [b"3"], replace=False)) == (True, False)
    assert (store.get("a/b"), store.get("a/b", 1), store.get_many(["a/b", "c"])) == (b"12", b"1", {"a/b": b"12"})
    assert store.put("a/b", [b"3"], replace=True)
    with pytest.raises(FileNotFoundError):
        store.get("c")
    store.delete("a/b")
    store.close()
    assert (store.sweep(0), repr(store)) == (0, "FolderResult")


@pytest.mark.parametrize("call", [lambda r: r.read("x"), lambda r: r.write(1), lambda r: r.exists("x")])
def test_what_a_class_lacks_is_said(call: Any):
    with pytest.raises(NotImplementedError, match="Result needs a method"):
        call(Result())


def test_locations_may_be_functions_and_copies_have_values():
    formatted = Result(location=lambda **fields: f"{fields['a']}.x").format(a=1)
    assert formatted.location == "1.x"
    assert (Result().from_value(3).value, Result(5).copy().value) == (3, 5)


def test_results_are_ours(tmp_path: Path):
    assert LocalResult("x", validate_dir=False).store.root.endswith("x")
    absolute = LocalResult(location=f"{tmp_path}/{{task_name}}.pkl")
    assert absolute.store.root == os.path.abspath("/")
    assert absolute.location == f"{tmp_path}/{{task_name}}.pkl".lstrip("/")
    assert isinstance(PrefectResult().serializer, results.JSONSerializer)
    assert as_result(absolute) is absolute


def test_results_of_clouds_are_urls(monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setattr(results, "FileResult", lambda url, **options: made.append((url, options)))
    monkeypatch.setattr(results, "S3Result", lambda bucket, **options: made.append((bucket, options)))
    monkeypatch.setenv("AZURE", "from a secret")
    GCSResult("b", location="x")
    AzureResult("c", connection_string_secret="AZURE")
    S3Result("d", boto3_kwargs={"region_name": "eu"}, upload_options={"ACL": "x"})
    assert made == [
        ("gcs://b", {"location": "x"}),
        ("az://c", {"connection_string": "from a secret"}),
        ("d", {"client_kwargs": {"region_name": "eu"}, "s3_additional_kwargs": {"ACL": "x"}}),
    ]


def test_serializers_of_the_users_own(tmp_path: Path):
    class Upper(Serializer):
        def serialize(self, value: Any) -> bytes:
            return str(value).upper().encode()

        def deserialize(self, value: bytes) -> Any:
            return value.decode()

    @task(result=LocalResult(str(tmp_path), serializer=Upper()), target="x.txt")
    def say() -> str:
        return "tea"

    with Flow("f") as flow:
        node = say()
    flow.run()
    assert flow.run().result[node].result == "TEA"
    assert Upper() == Upper()
    assert len({Upper(), Upper()}) == 1
    with pytest.raises(NotImplementedError, match="needs a method serialize"):
        Serializer().dumps(1)
    with pytest.raises(NotImplementedError, match="needs a method deserialize"):
        Serializer().loads(b"")


def test_serializers_give_back_what_they_got():
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert DateTimeSerializer().loads(DateTimeSerializer().dumps(noon)) == noon
    assert PickleSerializer().loads(PickleSerializer().dumps({1})) == {1}
    packed = CompressedSerializer(results.PickleSerializer(), format="gzip")
    assert packed.loads(packed.dumps([1])) == [1]


def test_frames_are_kept_in_formats_of_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": [1, 2]})
    csv = PandasSerializer("csv", serialize_kwargs={"index": False})
    assert csv.dumps(frame) == b"x\n1\n2\n"
    assert csv.loads(csv.dumps(frame)).equals(frame)
    assert (csv.runs_code, PandasSerializer("pickle").runs_code) == (False, True)
