# gives: {"remember": 2}
from prefect import Flow, task
from prefect.artifacts import create_link, create_markdown
from prefect.backend import create_markdown_artifact, get_key_value, set_key_value
from prefect.backend.kv_store import delete_key, list_keys


@task
def remember():
    set_key_value(key="last run", value={"n": 1})
    found = get_key_value("last run")["n"] + len(list_keys())
    create_markdown("# found " + str(found))
    create_markdown_artifact("more")
    create_link("https://example.com/report")
    delete_key("last run")
    return found


with Flow("key values") as flow:
    remember()
