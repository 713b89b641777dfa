"""Run the points of a batch with Dask: on this machine, or on the workers of a given scheduler.

Without a scheduler's address a cluster of N processes is started here, on loopback alone, and ended with the batch. With
one, the same tasks go there; its workers need the same pwl_lab, and must see the notebook, and the batch's folder unless
it lies at an address, under the same paths. A worker that dies loses the point that it ran: the scheduler gives it to
another, a few times. Threads in a worker, rather than a process for each point, since a point's kernel is a process
already.
"""

import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Client, Future

from pwl_lab.runner.clusters import (
    ALLOWED_FAILURES,
    ANSWER_S,
    StoppedError,
    Workers,
    cluster_at,
    fits,
    in_time,
    nobody_fits,
    own_cluster,
)
from pwl_lab.runner.kernel import Runs, stop_on_signal
from pwl_lab.runner.location import Location, location_at
from pwl_lab.runner.points import BatchPlan, Point, log_event, read_results
from pwl_lab.runner.run_folder import RunStatus
from pwl_lab.runner.worker import CANCELLED, PointTask, StopUnwanted, note_failure, run_point, still_running, stop_batch
from pwl_lab.support import environment
from pwl_lab.support.errors import PwlLabError

QUIET_S = 60  # after this long without a finished point, perhaps none can start
STOP_S = 20  # time for stopped points to write how far they got
HEARD_S = 6  # when the batch stops, a worker that has been silent for this long is not waited for
REPORT_S = 0.5
LOOK_EVERY_S = 0.2
HELD_LOOK_S = 5  # how often to check whether points that are held back can be submitted
GIVE_UP_S = 600  # how long a scheduler may not answer, or a worker that has a point may be silent
LOST = ("cancelled", "lost")  # a future that the scheduler has withdrawn
SUBMISSIONS = 4  # of a point whose workers were closed in good order, or whose answer was lost

OnEnd = Callable[[Point, RunStatus, int], None]  # the last argument: how many points run at once


@dataclass
class BatchOutcome:
    """How a batch ended: the status of each point that ended, by its hash, and what stopped it, if anything did."""

    ended: dict[str, RunStatus] = field(default_factory=dict)
    stopped_by: str | None = None

    def all_well(self, points: Sequence[Point]) -> bool:
        """Whether each of these points ended, and well."""
        return all(point.hash in self.ended and self.ended[point.hash].status == "ok" for point in points)


def run_points(
    plan: BatchPlan,
    points: Sequence[Point],
    location: Location,
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    on_end: OnEnd | None = None,
    on_line: Callable[[str], None] | None = None,
) -> BatchOutcome:
    """Run `points` of `plan` into `location`; the caller holds its lock. The other arguments are those of `run_batch`.

    A signal stops what runs and begins no more. Raises InvalidValueError for a scheduler that does not answer, or resources
    that this machine does not have.
    """
    environment.settled()  # processes that are started here have the plugin already
    runs, batch = Runs(), uuid.uuid4().hex[:12]
    if scheduler is None:
        cluster = own_cluster(plan, len(points), location.scratch, workers, runs)
    else:
        cluster = cluster_at(scheduler, runs)
    try:
        with stop_on_signal(runs), cluster as (client, shared):
            run = _BatchRun(client, batch, location.work, plan.resources, runs, on_end, on_line)
            common = replace(plan, points=())
            tasks = [PointTask(batch, common, point, location.address, shared, force) for point in points]
            run.run(tasks, StopUnwanted(terminal=scheduler is None))
            return run.outcome
    except StoppedError as error:
        return BatchOutcome(stopped_by=str(error))


@dataclass
class _BatchRun:
    """One batch on one client."""

    client: Client
    batch: str
    folder: Path
    resources: Mapping[str, float]
    runs: Runs
    on_end: OnEnd | None = None
    on_line: Callable[[str], None] | None = None
    outcome: BatchOutcome = field(default_factory=BatchOutcome)
    waiting: "dict[str, tuple[PointTask, Future[Any]]]" = field(default_factory=dict)  # by the task's key
    done: "queue.SimpleQueue[Future[Any]]" = field(default_factory=queue.SimpleQueue)
    held: deque[tuple[PointTask, int]] = field(default_factory=deque)  # not submitted yet, with their priority
    restricted: dict[str, frozenset[str]] = field(
        default_factory=dict
    )  # the workers of a task that may not run on all of them
    looked: float = field(default_factory=time.monotonic)  # when a point last ended or the workers were last checked
    answered: float = field(default_factory=time.monotonic)  # when the scheduler last answered
    said: str | None = None

    def __post_init__(self) -> None:
        """Watch the workers of `client`; none has been checked yet."""
        self.workers = Workers(self.client)

    def run(self, tasks: Sequence[PointTask], plugin: StopUnwanted) -> None:
        """Run all points; `outcome` then holds how they ended, and what stopped them."""
        try:
            self._introduce(plugin)
            scheduler = self.client.scheduler
            address = scheduler.address if scheduler else None
            log_event(self.folder, "batch begun", batch=self.batch, points=len(tasks), scheduler=address)
            self.submit(tasks)
            self.follow()
        except OSError as error:  # a full disk, a missing folder, a scheduler that is gone
            self.outcome.stopped_by = self.runs.stopped_by or f"{type(error).__name__}: {error}"
        finally:
            self.stop(self.runs.stopped_by or self.outcome.stopped_by or "the batch ended early")
        with suppress(OSError):
            facts = {"points": len(self.outcome.ended), "stopped_by": self.outcome.stopped_by}
            log_event(self.folder, "batch ended", batch=self.batch, **facts)

    def _introduce(self, plugin: StopUnwanted) -> None:
        """Register the plugin on every worker. One that is lost meanwhile, or silent, is left out.

        Workers that come later get it from the scheduler. Raises PwlLabError where a worker cannot run points at all, OSError
        where the scheduler does not answer, StoppedError for a signal.
        """
        end = time.monotonic() + ANSWER_S
        if not self._look() and self.said:
            raise StoppedError("the scheduler does not answer")
        while time.monotonic() < end:
            try:
                in_time(lambda: self.client.register_plugin(plugin), end - time.monotonic(), self.runs)
                return
            except TimeoutError:
                return
            except OSError:  # a worker was lost during the request: ask the others again
                if self.client.status != "running":
                    raise
                time.sleep(LOOK_EVERY_S)
            except StoppedError:
                raise
            except Exception as error:  # noqa: BLE001 - that of the worker, whatever it is
                why = f"{type(error).__name__}: {error}".partition("\n")[0]
                raise PwlLabError(
                    f"a worker cannot run points ({why}); check that it has this version of pwl_lab and its environment"
                ) from None

    def submit(self, tasks: Sequence[PointTask]) -> None:
        """Hand all points to the scheduler, in the order of the grid, as far as there are workers that answer."""
        self.held.extend((task, -number) for number, task in enumerate(tasks))
        self._hand_out()

    def _hand_out(self) -> None:
        """Submit the points that are held back: all, or while a worker is silent only as many as the others can soon start.

        Dask would give most of them to the silent one, which looks idle. What the others get is for them alone, and little
        at a time, so that workers that join or come back get a share of the rest.
        """
        workers = self._look()
        silent = self.workers.silent()
        if silent:
            self._say_silent(silent, workers)
        heard = {name: facts for name, facts in workers.items() if name not in silent and fits(facts, self.resources)}
        only = frozenset(heard) if silent else None
        room = 2 * sum(facts["nthreads"] for facts in heard.values()) - len(self.waiting) if silent else len(self.held)
        while self.held and room > 0 and not self._stopped():
            self._submit(*self.held.popleft(), only)
            room -= 1

    def _submit(self, task: PointTask, priority: int, only: frozenset[str] | None = None) -> None:
        """Submit one point, for any worker or for some of them."""
        future = self.client.submit(
            run_point,
            task,
            key=task.key,
            pure=False,
            resources=self.resources or None,
            priority=priority,
            workers=sorted(only) if only else None,
        )
        self.waiting[task.key] = (task, future)
        if only:
            self.restricted[task.key] = only
        future.add_done_callback(self.done.put)

    def follow(self) -> None:
        """Collect the points as they end, until all have or a signal arrives."""
        while (self.waiting or self.held) and not self._stopped():
            ended = False
            with suppress(queue.Empty):
                self._take(self.done.get(timeout=LOOK_EVERY_S))
                self.looked, ended = time.monotonic(), True
            if self.held and (ended or time.monotonic() > self.answered + HELD_LOOK_S):
                self._hand_out()
            if time.monotonic() > self.looked + QUIET_S:
                self._look_after()
        self.outcome.stopped_by = self.outcome.stopped_by or self.runs.stopped_by

    def _look(self) -> Mapping[str, Mapping[str, Any]]:
        """All workers, by address; none while the scheduler does not answer, which is said, and ends the batch if it lasts."""
        try:
            workers = self.workers.look()
        except (OSError, TimeoutError):
            if self.client.status == "running":  # otherwise it has just gone, and the points report that
                silence = time.monotonic() - self.answered
                self._say("the scheduler does not answer; waiting")
                if silence > GIVE_UP_S:
                    self.outcome.stopped_by = f"the scheduler has not answered for {silence / 60:.0f} minutes"
            return {}
        self.answered = time.monotonic()
        return workers

    def _look_after(self) -> None:
        """Called when no point has ended for long: say if no worker can take what waits, or if one is silent; Dask does not."""
        before = self.answered
        workers = self._look()
        if self.answered > before:
            silent = self.workers.silent()
            if why := nobody_fits(workers, self.resources):
                self._say(why)
            elif silent:
                self._say_silent(silent, workers)
            else:
                self.said = None
            with suppress(OSError, TimeoutError):
                self._take_from(self.workers.silent(GIVE_UP_S), set(workers) - set(silent))
        self.looked = time.monotonic()

    def _take_from(self, silent: Sequence[str], heard: set[str]) -> None:
        """Take back the points of workers that are given up, and those that may only run on workers that are gone."""
        if not heard:
            return
        stuck = {name for name, only in self.restricted.items() if name in self.waiting and not only & heard}
        if silent:
            tasks = in_time(lambda: self.client.processing(list(silent)), ANSWER_S)
            stuck |= {name for names in tasks.values() for name in names if name in self.waiting}
        futures = [self.waiting[name][1] for name in sorted(stuck)]
        if futures:  # like a point that the scheduler withdraws, each is submitted again
            in_time(lambda: self.client.cancel(futures, force=True), ANSWER_S)

    def _say_silent(self, silent: Sequence[str], workers: Mapping[str, Any]) -> None:
        """Report the workers that are silent."""
        names = ", ".join(silent[:3]) + (f" and {len(silent) - 3} more" if len(silent) > 3 else "")
        do = "does" if len(silent) == 1 else "do"
        rest = "going on with the others" if len(silent) < len(workers) else "waiting"
        self._say(f"{len(silent)} of {len(workers)} workers {do} not answer ({names}); {rest}")

    def _say(self, what: str) -> None:
        """Report once what the batch is waiting for."""
        if what == self.said:
            return
        self.said = what
        with suppress(OSError):
            log_event(self.folder, "waiting", batch=self.batch, why=what)
        if self.on_line:
            self.on_line(what)

    def _take(self, future: "Future[Any]") -> None:
        """Note how one point ended."""
        if future.key not in self.waiting:
            return
        task, _ = self.waiting.pop(future.key)
        try:
            status = self._answer(task, future)
        except TimeoutError:  # its worker has gone silent; the scheduler will report when it drops the worker
            self.waiting[future.key] = (task, future)
            self.done.put(future)
            return
        lost = future.status in LOST
        if lost and self.client.status != "running":
            self.outcome.stopped_by = self.outcome.stopped_by or "the scheduler is gone"
            return
        if (lost or (status and status.error and status.error.name == CANCELLED)) and self._again(task):
            return
        if lost and not self._stopped():
            status = note_failure(task, CANCELLED, f"the scheduler took it back {SUBMISSIONS} times")
        if status is not None:
            self.outcome.ended[task.hash] = status
            facts = {"error": f"{status.error.name}: {status.error.message}"} if status.error else {}
            log_event(self.folder, "point ended", batch=self.batch, hash=task.hash, status=status.status, **facts)
            if self.on_end:
                self.on_end(task.point, status, self._at_once())

    def _answer(self, task: PointTask, future: "Future[Any]") -> RunStatus | None:
        """The status of a point that has ended. Raises TimeoutError if its worker does not send it."""
        if future.status in LOST:
            return None
        try:
            error = future.exception() if future.status == "error" else None
            return self._failed(task, error) if error else in_time(future.result, ANSWER_S)
        except TimeoutError:
            found = read_results(location_at(task.out, patient=False), [task.hash])[task.hash].status
            if found is None or found.status == "running":
                raise
            return found
        except Exception as error:  # noqa: BLE001 - the worker was lost with the answer, and the point could not be run again
            return None if future.status in LOST else self._failed(task, error)

    def _again(self, task: PointTask) -> bool:
        """Submit a point again whose worker was closed; False if that has been done often enough."""
        if self._stopped() or task.submission == SUBMISSIONS:
            return False
        log_event(self.folder, "point handed out again", batch=self.batch, hash=task.hash)
        self.held.appendleft((replace(task, submission=task.submission + 1), 0))
        self._hand_out()
        return True

    def _stopped(self) -> bool:
        """Whether no more points may start."""
        return bool(self.runs.stopped_by or self.outcome.stopped_by)

    def _at_once(self) -> int:
        """How many points run at once: one per worker, and no more than there are points."""
        with suppress(OSError, TimeoutError):  # a scheduler that is shutting down
            return max(1, min(len(in_time(self.client.nthreads, ANSWER_S)), len(self.waiting)))
        return 1

    def _failed(self, task: PointTask, error: BaseException) -> RunStatus:
        """The status of a point that its worker did not finish."""
        name = type(error).__name__
        text = str(error)
        if name == "KilledWorker":
            died = getattr(error, "allowed_failures", ALLOWED_FAILURES) + 1
            text = f"{died} workers died while they ran this point, perhaps because memory ran out"
        return note_failure(task, name, text)

    def stop(self, reason: str) -> None:
        """End what is still running, and wait until it has written how far it got."""
        if not self.waiting or self.client.status != "running":
            return
        self.outcome.stopped_by = self.outcome.stopped_by or reason
        with suppress(
            OSError, TimeoutError
        ):  # if the scheduler is gone, there is nothing to stop; a frozen node does not answer
            self._stop_on_workers(reason)
        end = time.monotonic() + STOP_S
        with suppress(OSError, queue.Empty):  # their last reports are still on their way
            while time.monotonic() < end:
                self._take(self.done.get(timeout=REPORT_S))
        with suppress(OSError):
            left = [future for _, future in self.waiting.values()]
            in_time(lambda: self.client.cancel(left, force=True), ANSWER_S)

    def _stop_on_workers(self, reason: str) -> None:
        """Kill the running points and wait until none is left. Raises TimeoutError if that takes longer than STOP_S."""
        end = time.monotonic() + STOP_S
        self._on_workers(end, stop_batch, reason)
        while any(self._on_workers(end, still_running).values()):
            time.sleep(LOOK_EVERY_S)

    def _on_workers(self, end: float, function: Callable[..., Any], *words: str) -> Mapping[str, Any]:
        """Each responsive worker's answer about the batch. Raises TimeoutError if one has not answered by `end`."""
        while True:
            heard, silent = self.workers.heard_of(HEARD_S)
            if silent:
                self._say(f"not waiting for workers that do not answer ({', '.join(silent[:3])})")
            if not heard:
                return {}
            run = partial(self.client.run, function, self.batch, *words, workers=heard, on_error="ignore")
            try:
                return in_time(run, max(0.0, min(HEARD_S, end - time.monotonic())))
            except TimeoutError:  # one may just have gone silent
                if time.monotonic() >= end:
                    raise
