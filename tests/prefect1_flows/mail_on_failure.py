# gives: {"quiet": "no mail"}
from prefect import Flow, task
from prefect.engine.state import Failed
from prefect.tasks.notifications.email_task import EmailTask
from prefect.triggers import any_failed
from prefect.utilities.notifications import gmail_notifier

mail = EmailTask(subject="failed", msg="<b>look</b>", email_to="a@example.com, b@example.com", trigger=any_failed)


@task(state_handlers=[gmail_notifier(only_states=[Failed])])
def quiet():
    return "no mail"


with Flow("mail") as flow:
    quiet()
print(mail)
