# gives: {"login": 11, "names": ["user", 11]}
# environment: PREFECT__CONTEXT__SECRETS__PASSWORD=hunter2-abc ACCOUNT={"user":"me"} TOKEN=xy
from prefect import Flow, task
from prefect.client import Secret
from prefect.tasks.secrets import EnvVarSecret, PrefectSecret


@task
def login(password, account):
    return len(password) + len(account) - 1


@task
def length(token):
    return len(token)


@task
def names(account):
    return [*account, len(Secret("PASSWORD").get())]


with Flow("secrets") as flow:
    password = PrefectSecret("PASSWORD")
    login(password, PrefectSecret("ACCOUNT")())
    length(EnvVarSecret("TOKEN", raise_if_missing=True))
    names(PrefectSecret("ACCOUNT"))
