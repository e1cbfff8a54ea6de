# gives: {"fine": true}
from prefect import Flow, task
from prefect.tasks.aws import S3Download, S3Upload
from prefect.tasks.aws.s3 import S3List
from prefect.tasks.dbt import DbtShellTask
from prefect.tasks.gcp.bigquery import BigQueryTask
from prefect.tasks.great_expectations import RunGreatExpectationsValidation
from prefect.tasks.postgres import PostgresExecute
from prefect.tasks.snowflake.snowflake import SnowflakeQuery

LATER = (S3Download, S3Upload, S3List, DbtShellTask, BigQueryTask, PostgresExecute, SnowflakeQuery)


@task
def fine():
    return not isinstance(1, LATER) and RunGreatExpectationsValidation is not None


with Flow("other systems") as flow:
    fine()
