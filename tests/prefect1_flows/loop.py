# gives: {"factorial": 120}
import prefect
from prefect import Flow, task
from prefect.engine.signals import LOOP


@task
def factorial(n):
    payload = prefect.context.get("task_loop_result", {})
    k, product = payload.get("k", 1), payload.get("product", 1)
    product *= k
    if k == n:
        return product
    raise LOOP(message=f"at {k}", result={"k": k + 1, "product": product})


with Flow("loop") as flow:
    factorial(5)
