# gives: {"listing": ["a", "b"], "count": "2"}
from prefect import Flow
from prefect.tasks.shell import ShellTask

listing = ShellTask(name="listing", return_all=True, stream_output=True)
count = ShellTask(name="count", helper_script="cd /", env={"N": "2"}, log_stderr=True)

with Flow("shell") as flow:
    names = listing(command="echo a; echo b")
    count(command="echo $N", upstream_tasks=[names])
