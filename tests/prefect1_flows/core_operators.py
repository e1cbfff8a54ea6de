# gives: {"GetItem": 2, "Add": 5, "List": [1, 2], "Constant": 9, "StringFormatter": "a-b"}
from prefect import Flow, Task
from prefect.tasks.core.collections import Dict, List
from prefect.tasks.core.constants import Constant
from prefect.tasks.core.operators import Add, GetItem, Sub
from prefect.tasks.templates.strings import StringFormatter


class Numbers(Task):
    def run(self):
        return {"a": 1, "b": 2}


with Flow("operators") as flow:
    numbers = Numbers()()
    b = GetItem()(numbers, "b")
    Add()(x=3, y=b)
    List()(1, b)
    Constant(9)()
    StringFormatter(template="{x}-{y}")(x="a", y="b")
print(Dict, Sub)
