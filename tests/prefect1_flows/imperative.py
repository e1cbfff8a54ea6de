# gives: {"add": 3}
from prefect import Flow, Task, task


class Get(Task):
    def __init__(self, value, **kwargs):
        self.value = value
        super().__init__(**kwargs)

    def run(self):
        return self.value


class Add(Task):
    def run(self, x, y):
        return x + y


@task
def before():
    return None


flow = Flow("imperative")
one, two, add = Get(1, name="one"), Get(2, name="two"), Add(name="add")
flow.add_task(one)
flow.add_edge(upstream_task=one, downstream_task=add, key="x")
flow.add_edge(two, add, "y", validate=True)
flow.set_dependencies(task=one, upstream_tasks=[before], validate=False)
flow.chain(before, one, validate=True)
flow.set_reference_tasks([add])
assert [each.name for each in flow.sorted_tasks(root_tasks=[two])] == ["two", "add"]
assert len(flow.get_tasks(task_type=Get)) == 2
