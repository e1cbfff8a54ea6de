# gives: {"last": "done"}
from prefect import Flow, Task
from prefect.tasks.shell import ShellTask

first = ShellTask(command="true", name="first")
last = ShellTask(command="echo done", name="last")

flow = Flow("shell order", tasks=[first, last])
last.set_upstream(first, flow=flow)
start = Task(name="start")
first.set_upstream(start, flow=flow)
