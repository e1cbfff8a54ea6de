# gives: {"report": "reported"}
from prefect import Flow, task
from prefect.engine.state import Failed, Success
from prefect.tasks.notifications import SlackTask
from prefect.utilities.notifications import callback_factory, slack_notifier

SEEN = []
handler = slack_notifier(only_states=[Failed], webhook_secret="SLACK")
noted = callback_factory(lambda obj, state: SEEN.append(obj.name), check=lambda state: isinstance(state, Success))
alert = SlackTask(message="it failed", webhook_secret="SLACK", trigger=lambda states: False, name="alert")


@task(state_handlers=[handler, noted])
def report():
    return "reported"


with Flow("slack", state_handlers=[slack_notifier(ignore_states=[Success], only_states=[Failed])]) as flow:
    report()
