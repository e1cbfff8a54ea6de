# gives: {"merge": "large", "kept": [2, 3], "after": "yes"}
from prefect.core.flow import Flow
from prefect.core.parameter import Parameter
from prefect.core.task import Task
from prefect.tasks.control_flow import FilterTask, case, ifelse, merge, switch
from prefect.tasks.control_flow.case import case as same_case
from prefect.utilities.tasks import task


@task
def size(n):
    return "large" if n > 10 else "small"


@task
def say(word):
    return word


class After(Task):
    def run(self):
        return "yes"


with Flow("branches") as flow:
    n = Parameter("n", default=11)
    found = size(n)
    with case(found, "large"):
        a = say("large")
    with same_case(found, "small"):
        b = say("small")
    merge(a, b, checkpoint=False)
    FilterTask(filter_func=lambda x: x > 1, name="kept")([1, 2, 3])
    ifelse(condition=found, true_task=After(name="after"), false_task=say("no"))
    switch(found, {"large": say("l"), "small": say("s")})
