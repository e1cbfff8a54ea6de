# gives: {"Copy": "a->b", "again": "c->b"}
from prefect import Flow, Task
from prefect.utilities.tasks import defaults_from_attrs


class Copy(Task):
    def __init__(self, source=None, place=None, **kwargs):
        self.source = source
        self.place = place
        super().__init__(**kwargs)

    @defaults_from_attrs("source", "place")
    def run(self, source=None, place=None):
        return f"{source}->{place}"


with Flow("defaults") as flow:
    Copy("a", "b")()
    Copy("a", "b", name="again")(source="c")
