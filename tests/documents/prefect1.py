"""The public names of Prefect Core 1.4.1 that its users meet, by where they are: facts, no code of it."""

from __future__ import annotations

_BY_PLACE = """
prefect: Client Flow Parameter Task api apply_map case config context flatten mapped models plugins resource_manager
    tags task unmapped Edge
Flow: copy get_tasks replace root_tasks terminal_tasks parameters reference_tasks set_reference_tasks add_task
    add_edge chain update all_upstream_edges all_downstream_edges edges_to edges_from upstream_tasks downstream_tasks
    validate sorted_tasks set_dependencies run visualize serialize serialized_hash diagnostics load save run_agent
    register
options of Flow: name schedule executor run_config storage tasks edges state_handlers on_failure result
    terminal_state_handler
Task: bind map set_upstream set_downstream inputs outputs pipe is_equal is_not_equal not_ or_
options of Task: slug max_retries retry_delay retry_on timeout trigger skip_on_upstream_skip cache_for cache_validator
    cache_key checkpoint log_stdout target task_run_name nout
parameters: DateTimeParameter
engine: FlowRunner TaskRunner
executors: DaskExecutor Executor LocalDaskExecutor LocalExecutor
options of DaskExecutor: address cluster_class cluster_kwargs adapt_kwargs client_kwargs debug performance_report_path
    disable_cancellation_event watch_worker_status
results: AzureResult ConstantResult GCSResult LocalResult PrefectResult S3Result SecretResult Result NoResult
serializers: Serializer PickleSerializer JSONSerializer DateTimeSerializer PandasSerializer CompressedSerializer
signals: signal_from_state ENDRUN PrefectStateSignal FAIL LOOP TRIGGERFAIL VALIDATIONFAIL SUCCESS RETRY SKIP PAUSE
states: State Pending Scheduled Paused ClientFailed Submitted Queued Resume Retrying Running Cancelling Finished
    Looped Success Cached Mapped Cancelled Failed TimedOut TriggerFailed ValidationFailed Skipped
State: load_result load_cached_results children parents is_pending is_queued is_retrying is_running is_cached
    is_finished is_looped is_scheduled is_submitted is_skipped is_successful is_failed is_mapped is_meta_state
    deserialize
triggers: all_finished manual_only all_successful all_failed any_successful any_failed some_failed some_successful
    not_all_skipped always_run
cache validators: never_use duration_only all_inputs all_parameters partial_parameters_only partial_inputs_only
storage: Azure Bitbucket CodeCommit Docker GCS Git GitHub GitLab Local Module S3 Storage Webhook
run configs: DockerRun ECSRun KubernetesRun LocalRun RunConfig UniversalRun VertexRun
schedules: CronSchedule IntervalSchedule RRuleSchedule Schedule
clocks: ClockEvent Clock IntervalClock CronClock DatesClock RRuleClock
filters: on_datetime between_datetimes on_date between_dates at_time between_times is_weekday is_month_end is_weekend
    is_day_of_week is_month_start
adjustments: add next_weekday
control flow: FilterTask ifelse merge switch
tasks.core: GetItem GetAttr Add Sub Mul Div FloorDiv Pow Mod And Or Not Equal NotEqual GreaterThanOrEqual GreaterThan
    LessThanOrEqual LessThan List Tuple Set Dict Constant
tasks.prefect: CancelFlowRun RenameFlowRun StartFlowRun create_flow_run get_task_run_result wait_for_flow_run
tasks.secrets: EnvVarSecret PrefectSecret SecretBase VaultSecret
utilities.tasks: as_task pause_task defaults_from_attrs
notifications: callback_factory gmail_notifier slack_notifier snowflake_logger jira_notifier
other utilities: raise_on_exception is_serializable set_temporary_config get_logger get_key_value
"""

NAMES = frozenset(name for line in _BY_PLACE.splitlines() for name in line.rpartition(": ")[2].split())
