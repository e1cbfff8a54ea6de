"""Tables of the run store, and the numbered steps that make them, for SQLite and PostgreSQL alike.

A new store takes all steps, an older one those it lacks: there is no other way to make a table, so the two cannot come
apart. A step that was released is never edited; a change is a new step at the end. (Alembic does the same at 0.9 s of
import time; what is needed of it here are these few lines.)

Times are microseconds since 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

APPLICATION_ID = 0x616E6272
"""``anbr`` in the header of a SQLite file: it is ours."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the statements see it; `columns` begin with the key."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]

    def insert(self) -> str:
        """Statement that adds a row, unless there is one with its key."""
        return f"{self._insert()} DO NOTHING"

    def upsert(self) -> str:
        """Statement that adds a row, or replaces the one with its key."""
        values = ", ".join(f"{column} = excluded.{column}" for column in self.columns[len(self.key) :])
        return f"{self._insert()} DO UPDATE SET {values}"

    def select(self, where: str) -> str:
        """Statement that reads all columns of the rows for which the condition holds."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name} WHERE {where}"

    def _insert(self) -> str:
        marks = ", ".join("?" * len(self.columns))
        return (
            f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({marks}) ON CONFLICT ({', '.join(self.key)})"
        )


def _define(name: str, key: str, rest: str) -> Table:
    keys = tuple(key.split())
    return Table(f"anabranch_{name}", keys, (*keys, *rest.split()))


RUNS = _define(
    "runs",
    "run_id",
    "flow_name flow_version state message started ended parent_run_id labels owner epoch token held_since lease_until "
    "born heard rests",
)
# Apart from the runs, since a database writes a row anew as a whole each time a lease is renewed.
DETAILS = _define("run_details", "run_id", "parameters parameters_pickle code versions plan")
TASK_RUNS = _define(
    "task_runs",
    "run_id slug",
    "task_name state code attempt loop_count started ended worker message failure value result fingerprint width",
)
CHUNKS = _define("chunks", "run_id slug serial", "indices codes element_values result worker started seconds")
ELEMENTS = _define("elements", "run_id slug element", "code attempt due message failure")
LOGS = _define("logs", "run_id epoch serial", "logged level line slug element attempt worker")
ARTIFACTS = _define("artifacts", "run_id slug element attempt number", "kind made body worker")
WISHES = _define("wishes", "run_id", "epoch wish")
# What is deleted, some at a time: a run whose rows are left (without a location), or a file of a run's.
LEAVING = _define("leaving", "run_id location", "since")
STORES = _define("stores", "store", "")
DEEDS = _define("deeds", "deed_id", "at who verb subject detail")
TABLES = (RUNS, DETAILS, TASK_RUNS, CHUNKS, ELEMENTS, LOGS, ARTIFACTS, WISHES)
"""Tables of runs; all begin with the run's id."""
FLOWS = _define(
    "flows",
    "flow_name",
    "project version fingerprint source code storage graph parameters schedule schedule_text overlap max_runs labels "
    "paused changed scheduled_until seal catch_up notifiers timeout_s",
)
SLOTS = _define(
    "slots",
    "run_id",
    "flow_name due ready parameters labels origin grp grp_most approve state message cancel owner token run_epoch "
    "tries lease_until created started ended zone parent bond told spent",
)
LIMITS = _define("limits", "name", "fixed")
PERMITS = _define(
    "permits",
    "name token bundle",
    "run_id flow_name owner most held wanted ticket seen lease_until",
)
NOTICES = _define("notices", "teller", "sent left_out")
NEWS = _define("news", "subject kind", "at run_id")
SERVICE_TABLES = (FLOWS, SLOTS, LIMITS, PERMITS, NOTICES, LEAVING, STORES, DEEDS, NEWS)
"""Tables of flows that run by themselves, of what runs share, and of what goes."""

SQLITE = {"text": "TEXT", "integer": "INTEGER", "real": "REAL", "bytes": "BLOB", "clustered": " WITHOUT ROWID"}
# Collation "C": ids and names sort by code point in both.
POSTGRESQL = {
    "text": 'TEXT COLLATE "C"',
    "integer": "BIGINT",
    "real": "DOUBLE PRECISION",
    "bytes": "BYTEA",
    "clustered": "",
}

STEPS: tuple[tuple[str, ...], ...] = (
    # 1: runs and what became of their tasks
    (
        """CREATE TABLE anabranch_runs (
            run_id {text} NOT NULL PRIMARY KEY, flow_name {text} NOT NULL, flow_version {text} NOT NULL,
            state {text} NOT NULL, message {text} NOT NULL, started {integer} NOT NULL, ended {integer},
            parent_run_id {text}, labels {text} NOT NULL, owner {text} NOT NULL, epoch {integer} NOT NULL,
            token {text} NOT NULL, held_since {integer} NOT NULL, lease_until {integer}){clustered}""",
        "CREATE INDEX anabranch_runs_started ON anabranch_runs (started)",
        "CREATE INDEX anabranch_runs_flow_name ON anabranch_runs (flow_name, started)",
        """CREATE TABLE anabranch_run_details (
            run_id {text} NOT NULL PRIMARY KEY, parameters {text} NOT NULL, parameters_pickle {bytes},
            code {text} NOT NULL, versions {text} NOT NULL, plan {bytes})""",
        """CREATE TABLE anabranch_task_runs (
            run_id {text} NOT NULL, slug {text} NOT NULL, task_name {text} NOT NULL, state {text} NOT NULL,
            code {integer} NOT NULL, attempt {integer} NOT NULL, loop_count {integer} NOT NULL, started {integer},
            ended {integer}, worker {text} NOT NULL, message {text} NOT NULL, failure {bytes}, value {bytes},
            result {text}, fingerprint {text} NOT NULL, width {integer}, PRIMARY KEY (run_id, slug))""",
        """CREATE TABLE anabranch_chunks (
            run_id {text} NOT NULL, slug {text} NOT NULL, serial {integer} NOT NULL, indices {bytes} NOT NULL,
            codes {bytes} NOT NULL, element_values {bytes}, result {text}, worker {text} NOT NULL, started {integer},
            seconds {real} NOT NULL, PRIMARY KEY (run_id, slug, serial))""",
        """CREATE TABLE anabranch_elements (
            run_id {text} NOT NULL, slug {text} NOT NULL, element {integer} NOT NULL, code {integer} NOT NULL,
            attempt {integer} NOT NULL, due {integer}, message {text} NOT NULL, failure {bytes},
            PRIMARY KEY (run_id, slug, element)){clustered}""",
    ),
    # 2: log lines
    (
        """CREATE TABLE anabranch_logs (
            run_id {text} NOT NULL, epoch {integer} NOT NULL, serial {integer} NOT NULL, logged {integer} NOT NULL,
            level {integer} NOT NULL, line {text} NOT NULL, slug {text}, element {integer}, attempt {integer},
            worker {text} NOT NULL, PRIMARY KEY (run_id, epoch, serial)){clustered}""",
    ),
    # 3: flows that run by themselves
    (
        """CREATE TABLE anabranch_flows (
            flow_name {text} NOT NULL PRIMARY KEY, project {text} NOT NULL, version {integer} NOT NULL,
            fingerprint {text} NOT NULL, source {text} NOT NULL, code {bytes}, storage {text}, graph {text} NOT NULL,
            parameters {text} NOT NULL, schedule {bytes}, schedule_text {text} NOT NULL, overlap {text} NOT NULL,
            max_runs {integer}, labels {text} NOT NULL, paused {integer} NOT NULL, changed {integer} NOT NULL,
            scheduled_until {integer} NOT NULL)""",
        "CREATE INDEX anabranch_flows_changed ON anabranch_flows (changed)",
        """CREATE TABLE anabranch_slots (
            run_id {text} NOT NULL PRIMARY KEY, flow_name {text} NOT NULL, due {integer} NOT NULL,
            ready {integer} NOT NULL, parameters {text} NOT NULL, labels {text} NOT NULL, origin {text} NOT NULL,
            grp {text} NOT NULL,
            grp_most {integer}, approve {text} NOT NULL, state {text} NOT NULL, message {text} NOT NULL,
            cancel {integer} NOT NULL, owner {text} NOT NULL, token {text} NOT NULL, run_epoch {integer} NOT NULL,
            tries {integer} NOT NULL, lease_until {integer}, created {integer} NOT NULL, started {integer},
            ended {integer})""",
        "CREATE INDEX anabranch_slots_state ON anabranch_slots (state, ready)",
        "CREATE INDEX anabranch_slots_flow_name ON anabranch_slots (flow_name, state)",
    ),
    # 4: flows whose code is sealed
    ("ALTER TABLE anabranch_flows ADD COLUMN seal {text} NOT NULL DEFAULT ''",),
    # 5: named limits
    (
        "CREATE TABLE anabranch_limits (name {text} NOT NULL PRIMARY KEY, fixed {integer}){clustered}",
        """CREATE TABLE anabranch_permits (
            name {text} NOT NULL, token {text} NOT NULL, bundle {text} NOT NULL, run_id {text} NOT NULL,
            flow_name {text} NOT NULL, owner {text} NOT NULL, most {integer} NOT NULL, held {integer} NOT NULL,
            wanted {integer} NOT NULL, ticket {integer} NOT NULL, seen {integer} NOT NULL,
            lease_until {integer} NOT NULL, PRIMARY KEY (name, token, bundle)){clustered}""",
        "CREATE INDEX anabranch_permits_token ON anabranch_permits (token)",
    ),
    # 6: the time zone of what a run is for
    ("ALTER TABLE anabranch_slots ADD COLUMN zone {text} NOT NULL DEFAULT ''",),
    # 7: what becomes of times that could not begin in time
    ("ALTER TABLE anabranch_flows ADD COLUMN catch_up {text} NOT NULL DEFAULT 'all'",),
    # 8: what people were told lately
    (
        """CREATE TABLE anabranch_notices (
            teller {text} NOT NULL PRIMARY KEY, sent {text} NOT NULL, left_out {integer} NOT NULL){clustered}""",
    ),
    # 9: who is told of runs that cannot tell themselves
    ("ALTER TABLE anabranch_flows ADD COLUMN notifiers {bytes}",),
    # 10: wishes that a run end, each for one owner of the run
    (
        """CREATE TABLE anabranch_wishes (
            run_id {text} NOT NULL PRIMARY KEY, epoch {integer} NOT NULL, wish {text} NOT NULL){clustered}""",
    ),
    # 11: what tells the process that holds a run from others of its number
    ("ALTER TABLE anabranch_runs ADD COLUMN born {text} NOT NULL DEFAULT ''",),
    # 12: what is on its way out, where runs have stored values, and which runs are part of others
    (
        """CREATE TABLE anabranch_leaving (
            run_id {text} NOT NULL, location {text} NOT NULL, since {integer} NOT NULL,
            PRIMARY KEY (run_id, location)){clustered}""",
        "CREATE TABLE anabranch_stores (store {text} NOT NULL PRIMARY KEY){clustered}",
        "CREATE INDEX anabranch_runs_parent ON anabranch_runs (parent_run_id)",
    ),
    # 13: runs that tasks of other runs have asked for
    (
        "ALTER TABLE anabranch_slots ADD COLUMN parent {text} NOT NULL DEFAULT ''",
        "ALTER TABLE anabranch_slots ADD COLUMN bond {integer} NOT NULL DEFAULT 0",
        "ALTER TABLE anabranch_slots ADD COLUMN told {integer} NOT NULL DEFAULT 0",
        "CREATE INDEX anabranch_slots_parent ON anabranch_slots (parent)",
    ),
    # 14: who did what
    (
        """CREATE TABLE anabranch_deeds (
            deed_id {text} NOT NULL PRIMARY KEY, at {integer} NOT NULL, who {text} NOT NULL, verb {text} NOT NULL,
            subject {text} NOT NULL, detail {text} NOT NULL){clustered}""",
        "CREATE INDEX anabranch_deeds_subject ON anabranch_deeds (subject, deed_id)",
    ),
    # 15: how long runs may take, and how much of that has passed
    (
        "ALTER TABLE anabranch_flows ADD COLUMN timeout_s {real}",
        "ALTER TABLE anabranch_slots ADD COLUMN spent {integer} NOT NULL DEFAULT 0",
    ),
    # 16: when a process was last at a run, and when none was
    (
        "ALTER TABLE anabranch_runs ADD COLUMN heard {integer}",
        "ALTER TABLE anabranch_runs ADD COLUMN rests {text} NOT NULL DEFAULT ''",
    ),
    # 17: what services have told of runs and flows, and which runs ended badly
    (
        """CREATE TABLE anabranch_news (
            subject {text} NOT NULL, kind {text} NOT NULL, at {integer} NOT NULL, run_id {text} NOT NULL,
            PRIMARY KEY (subject, kind)){clustered}""",
        "CREATE INDEX anabranch_slots_bad ON anabranch_slots (ended) "
        "WHERE state NOT IN ('Waiting', 'Running', 'Skipped', 'Success')",
    ),
    # 18: what tasks show
    (
        """CREATE TABLE anabranch_artifacts (
            run_id {text} NOT NULL, slug {text} NOT NULL, element {integer} NOT NULL, attempt {integer} NOT NULL,
            number {integer} NOT NULL, kind {text} NOT NULL, made {integer} NOT NULL, body {text} NOT NULL,
            worker {text} NOT NULL, PRIMARY KEY (run_id, slug, element, attempt, number))""",
    ),
)
VERSION = len(STEPS)


def statements(types: Mapping[str, str], *, since: int = 0) -> list[str]:
    """The statements of all steps after the one numbered `since`, in one dialect (`SQLITE` or `POSTGRESQL`)."""
    return [statement.format_map(types) for step in STEPS[since:] for statement in step]
