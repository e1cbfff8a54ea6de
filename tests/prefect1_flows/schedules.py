# gives: {"tick": 1}
from datetime import datetime, timedelta

from prefect import Flow, task
from prefect.schedules import CronSchedule, IntervalSchedule, Schedule, adjustments, clocks, filters
from prefect.schedules.clocks import CronClock, IntervalClock

EVERY = IntervalSchedule(start_date=datetime(2026, 1, 1), interval=timedelta(hours=1))
MORNING = CronSchedule("0 6 * * 1-5", start_date=datetime(2026, 1, 1))
WORKDAYS = Schedule(
    clocks=[
        clocks.IntervalClock(start_date=datetime(2026, 1, 1), interval=timedelta(days=1), parameter_defaults={"n": 1}),
        CronClock("@daily"),
    ],
    filters=[filters.is_weekday],
    not_filters=[filters.between_dates(12, 24, 12, 31)],
    adjustments=[adjustments.add(timedelta(hours=3)), adjustments.next_weekday],
)


@task
def tick(n=1):
    return n


with Flow("ticks", WORKDAYS) as flow:
    tick()
flow.schedule = EVERY
print(MORNING, IntervalClock)
if __name__ == "__main__":
    flow.run(run_on_schedule=False)
