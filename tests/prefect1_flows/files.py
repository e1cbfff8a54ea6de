# gives: {"count": 1, "SQLiteQuery": [[1]]}
import os
import tempfile

from prefect import Flow, task
from prefect.tasks.database.sqlite import SQLiteQuery, SQLiteScript
from prefect.tasks.files import Copy, Glob, Remove, Zip

FOLDER = tempfile.mkdtemp()
with open(os.path.join(FOLDER, "a.txt"), "w") as file:
    file.write("a")
DB = os.path.join(FOLDER, "x.db")


@task
def count(paths):
    return len(paths)


with Flow("files") as flow:
    copied = Copy(os.path.join(FOLDER, "a.txt"), os.path.join(FOLDER, "b.csv"))()
    packed = Zip(zip_path=os.path.join(FOLDER, "c.zip"))(copied)
    found = Glob(path=FOLDER, pattern="*.csv")(upstream_tasks=[packed])
    counted = count(found)
    Remove(os.path.join(FOLDER, "a.txt"))(upstream_tasks=[counted])
    made = SQLiteScript(db=DB, script="create table t (n int); insert into t values (1);")()
    SQLiteQuery(db=DB, query="select n from t")(upstream_tasks=[made])
