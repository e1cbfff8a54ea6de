"""Where the names of Prefect 1 are here: a module, and what it is called there if that is something else."""

from __future__ import annotations

_BY_MODULE = """
anabranch: FlowRunner Parameter apply_map case context config flatten mapped unmapped tags resource_manager triggers
    signals
anabranch.base.context: get_logger
anabranch.definition.caching: all_inputs all_parameters duration_only never_use partial_inputs_only
    partial_parameters_only
anabranch.executors: LocalExecutor
anabranch.executors.base: Executor
anabranch.schedules: Clock
anabranch.schedules.filters: at_time between_dates between_datetimes between_times is_day_of_week is_month_end
    is_month_start is_weekday is_weekend on_date on_datetime
anabranch.signals: ENDRUN FAIL LOOP PAUSE RETRY SKIP SUCCESS TRIGGERFAIL VALIDATIONFAIL
anabranch.states: Cached Cancelled Failed Finished Looped Mapped Paused Pending Retrying Running Scheduled Skipped State
    Submitted Success TimedOut TriggerFailed ValidationFailed
anabranch.triggers: all_failed all_finished all_successful always_run any_failed any_successful manual_only
    not_all_skipped some_failed some_successful
anabranch.results: PickleSerializer JSONSerializer
anabranch.prefect.definitions: DateTimeParameter FilterTask FunctionTask Task defaults_from_attrs ifelse merge
    switch task
anabranch.prefect.flows: Flow
anabranch.prefect.child_flows: StartFlowRun create_flow_run get_task_run_result wait_for_flow_run
anabranch.prefect.credentials: EnvVarSecret PrefectSecret Secret SecretBase
anabranch.prefect.code_places: Azure Bitbucket CodeCommit Docker GCS Git GitHub GitLab Local Module S3 Storage Webhook
anabranch.prefect.machines: DaskCloudProviderEnvironment DaskExecutor DaskKubernetesEnvironment DockerRun ECSRun
    Environment FargateTaskEnvironment KubernetesJobEnvironment KubernetesRun LocalDaskExecutor LocalEnvironment
    LocalRun RemoteDaskEnvironment RemoteEnvironment RunConfig UniversalRun VertexRun
anabranch.prefect.stored_values: AzureResult CompressedSerializer DateTimeSerializer GCSResult LocalResult
    PandasSerializer PrefectResult Result S3Result Serializer
anabranch.prefect.times: CronClock CronSchedule DatesClock IntervalClock IntervalSchedule Schedule
anabranch.prefect.notices: EmailTask SlackTask callback_factory gmail_notifier slack_notifier
anabranch.prefect.records: create_link create_link_artifact create_markdown create_markdown_artifact delete_artifact
    delete_key get_key_value list_keys set_key_value update_link update_link_artifact update_markdown
    update_markdown_artifact
anabranch.prefect.tools: as_task is_serializable pause_task raise_on_exception set_temporary_config
anabranch.prefect.databases: MySQLExecute MySQLFetch PostgresExecute PostgresExecuteMany PostgresFetch
    SqlServerExecute SqlServerExecuteMany SqlServerFetch
anabranch.prefect.github: CreateBranch CreateGitHubPR CreateIssueComment GetRepoInfo OpenGitHubIssue
anabranch.prefect.library: Add And Constant Copy Dict Div Equal FloorDiv GetAttr GetItem Glob GreaterThan
    GreaterThanOrEqual JinjaTemplate LessThan LessThanOrEqual List Mod Move Mul Not NotEqual Or Pow Remove SQLiteQuery
    SQLiteScript Set ShellTask StringFormatter Sub Tuple Unzip Zip
"""

_ERRORS = (
    *("AuthorizationError", "ClientError", "ContextError", "FlowStorageError", "ObjectNotFoundError", "PrefectError"),
    *("PrefectException", "SerializationError", "StorageError", "VersionLockError", "VersionLockMismatchSignal"),
)

PLACES: dict[str, str] = {
    name: f"{home}:{name}"
    for entry in _BY_MODULE.replace("\n    ", " ").strip().splitlines()
    for home, _, names in [entry.partition(": ")]
    for name in names.split()
} | {
    **dict.fromkeys(_ERRORS, "anabranch.errors:AnabranchError"),
    "TaskTimeoutError": "builtins:TimeoutError",
    "TaskTimeoutSignal": "builtins:TimeoutError",
    "EdgeAnnotation": "anabranch.definition.marks:Mark",
    "ClockEvent": "anabranch.schedules:ScheduledTime",
    "PrefectStateSignal": "anabranch.signals:Signal",
    "PrefectSignal": "anabranch.signals:Signal",
    "LocalResultHandler": "anabranch.prefect.stored_values:LocalResult",
    "S3ResultHandler": "anabranch.prefect.stored_values:S3Result",
    "GCSResultHandler": "anabranch.prefect.stored_values:GCSResult",
    "AzureResultHandler": "anabranch.prefect.stored_values:AzureResult",
    "JSONResultHandler": "anabranch.prefect.stored_values:PrefectResult",
    "schedules.adjustments:add": "anabranch.prefect.adjustments:add",
    "schedules.adjustments:next_weekday": "anabranch.prefect.adjustments:next_weekday",
    "tasks.core.resource_manager:ResourceManager": "anabranch:resource_manager",
}
"""By name, or by ``module:name`` where a name means several things."""
