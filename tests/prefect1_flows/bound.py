# gives: {"add": 3}
from prefect import Flow, Task


class Add(Task):
    def run(self, x, y=2):
        return x + y


flow = Flow("bound")
add = Add(name="add")
add.bind(x=1, flow=flow)
