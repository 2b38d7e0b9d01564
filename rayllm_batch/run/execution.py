"""The engines of one workload, running: what run, preview and estimate have in common."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Optional, cast

from rayllm_batch.cluster import placement, resources
from rayllm_batch.config import EngineConfig, EnvVars
from rayllm_batch.data.row_id import RowCounts
from rayllm_batch.errors import ConfigError, EngineError, RayLLMBatchError
from rayllm_batch.measures.history import History
from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.measures.prometheus import Prometheus
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot
from rayllm_batch.output.fingerprint import describe_job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.report.page import run_report
from rayllm_batch.report.run_report import RunReport
from rayllm_batch.run import pipeline, session, warm
from rayllm_batch.run.monitor import start_monitor
from rayllm_batch.run.options import RunOptions
from rayllm_batch.run.plan import MOST_BLOCKS, Plan, lengths_of, make_plan
from rayllm_batch.run.preflight import Ready, preflight
from rayllm_batch.run.warm import WarmEngines
from rayllm_batch.tasks.base import Task
from rayllm_batch.workers.prompts import PromptJob
from rayllm_batch.workers.replica import ReplicaJob
from rayllm_batch.workload.base import media_rules

if TYPE_CHECKING:
    import ray.data


class Execution:
    """metrics: of the last run; None before any. history, replicas: of the last run over time, and of its replicas.

    planned_rows: engines are set up as for a job of so many; None for as many as there are.
    """

    def __init__(self, config: EngineConfig, workload: Any, options: RunOptions) -> None:
        self.config, self.workload, self.options = config, workload, options
        self.metrics: Optional[RunMetrics] = None
        self.history = History()
        self.replicas: dict[str, ReplicaState] = {}
        self.planned_rows: Optional[int] = None
        self._task = self.task()

    def task(self) -> Task:
        """As the workload asks for it now, without what follows from the model; raises WorkloadError."""
        kind, kwargs = self.config.engine_kind, self.config.engine_kwargs
        return self.config.task_kind.of(self.workload, kind.seen_by_tasks(kwargs, self.config.accelerator_type))

    def begin(self, began: float, engines: int) -> None:
        """Nothing of an earlier run is left in what this one is measured by."""
        self.replicas, self.history = {}, History(engines, began)

    def measure(self) -> RunMetrics:
        """What the run did so far, also one that failed."""
        metrics = RunMetrics.of(self.replicas, time.time() - self.history.began, self.history)
        tokens = metrics.num_input_tokens, metrics.num_generated_tokens
        cost = self.config.engine_kind.cost_usd(self.config.engine_kwargs, *tokens)
        self.metrics = dataclasses.replace(metrics, cost_usd=cost)
        return self.metrics

    def report(self) -> RunReport:
        """Of the last run. Raises RayLLMBatchError before any."""
        if self.metrics is None:
            raise RayLLMBatchError("There is no run to report on yet: call run() first.")
        run = {name: value for name, value in vars(self.options).items() if name != "verbose"}
        run["batch_size"] = self.options.batch_size or "chosen"
        history, replicas = self.history, self.replicas
        return run_report(self.config, self.workload, run=run, metrics=self.metrics, history=history, replicas=replicas)

    def preflight(self, id_column: Optional[str] = None, folder: Optional[OutputFolder] = None) -> tuple[Ready, Plan]:
        config, options = self.config, self.options
        # Before a task is sent: to look at the rows may take some.
        pipeline.ship_by_value(self.workload, config.engine_kind, config.task_kind)
        engines = options.replica_range[0] * config.engines_per_replica
        if resources.spans_nodes(config) and len(set(options.replica_range)) > 1:
            raise ConfigError(
                f"num_replicas={options.num_replicas!r} may grow, but the GPUs of replicas with "
                "distributed_executor_backend: ray are reserved as the run begins. Give one number."
            )
        task = self.task()
        ready = preflight(config, self.workload, engines, options.preserve_order, id_column, folder=folder, task=task)
        facts, rows, replicas = ready.facts, ready.rows, options.replica_range
        self._task = rows.task
        lengths = lengths_of(rows.chats, task, facts.folder)
        total = self.planned_rows or rows.total
        known: dict[str, Any] = {"total": total, "lengths": lengths, "at_least": rows.at_least}
        known["adapters"] = ready.adapters
        known["with_media"] = rows.with_media
        plan = make_plan(ready.config, facts, replicas, batch_size=options.batch_size, **known)
        if plan.engines[0] != engines:
            resources.check(plan.config, plan.engines[0])
        return ready, plan

    def execute(
        self,
        plan: Plan,
        rows: ray.data.Dataset,
        total: Optional[int],
        token: str,
        consume: Callable[[ray.data.Dataset], Any],
        **prompt_job: Any,
    ) -> Any:
        """Run the pipeline for as long as `consume` reads its answers; every engine has ended when this returns."""
        engines = _kept_engines(plan, total)
        job = self._job(plan, token, engines, **prompt_job)
        try:
            answers = pipeline.answers(rows, job, plan, total, warm=engines is not None)
            with Prometheus(job.run_id, self.config.model_id) as prometheus:
                observers = self.history.observe, prometheus.observe
                with session.watched(job, plan.engines[0], self.options, total, *observers):
                    result = consume(answers)
        except BaseException as error:
            failure = session.explained(error, self._saw(session.end(job, engines)))
            self.history.end(failure)
            raise failure from None
        snapshot = self._saw(session.end(job, engines))
        if snapshot and snapshot.ended:  # with rows that it has left out
            failure = EngineError(snapshot.ended)
            self.history.end(failure)
            raise failure
        return result

    @contextmanager
    def engines(self, ready: Ready, plan: Plan, total: Optional[int]) -> Iterator[tuple[WarmEngines, str]]:
        """Running engines and the id of a run with them, for something small before the run that uses them next."""
        least, most = plan.engines
        engines = _kept_engines(plan, ready.rows.total)
        job = self._job(plan, ready.token, engines)
        if engines is None:
            # With room for as many as any run has: the next one may be of more rows, and is not to start it again.
            room = max(plan.blocks_in_flight(ready.rows.total), MOST_BLOCKS)
            engines = warm.start(plan.config, job, least if least == most else 1, room)
        try:
            with session.watched(job, least, self.options, total):
                yield engines, job.run_id
        except BaseException as error:
            raise session.explained(error, session.end(job, engines)) from None
        if least == most:
            warm.keep(engines)
        else:  # a range of replicas is Ray Data's to start and to end
            session.end(job, engines)

    def _job(
        self,
        plan: Plan,
        token: str,
        engines: Optional[WarmEngines],
        finished: Optional[RowCounts] = None,
        **folder_job: Any,
    ) -> ReplicaJob:
        import ray

        monitor = engines.monitor if engines else start_monitor(self.env_vars(token))
        job = ReplicaJob(
            run_id=uuid.uuid4().hex[:8],
            config=dataclasses.replace(plan.config, env_vars=EnvVars()),
            # put after preflight's ship_by_value: workers lack its class
            prompt=self.prompt_job(monitor, finished=None if finished is None else ray.put(finished), **folder_job),
            monitor=monitor,
            deduplicate=self.options.deduplicate,
            parse_answer=getattr(self.workload, "parse_answer", None),
            pinned=frozenset(name for name, value in self.config.engine_kwargs.items() if value is not None),
            groups=engines.groups if engines else placement.reserve(plan.config, plan.engines[1]),
        )
        if engines:
            engines.begin(job)
        return job

    def env_vars(self, token: str) -> dict[str, str]:
        config = self.config
        secrets = config.engine_kind.secrets(config.engine_kwargs, config.env_vars)
        return {**config.env_vars, **secrets, **({"HF_TOKEN": token} if token else {})}

    def prompt_job(self, monitor: Any, **folder_job: Any) -> PromptJob:
        """After `preflight`."""
        config, task = self.config, cast(Any, self._task)
        rollouts = None
        if task.has_own_columns:
            from rayllm_batch.workers.rollouts import Rollouts  # which travels only with a rollout

            rollouts = partial(Rollouts, self.workload.rollout, task.limits.timeout_s)
            task.code = describe_job(config, self.workload, None).code
        pooled: Optional[Callable[..., None]] = None
        if task.pools:
            from rayllm_batch.workers.pooled_prompts import fill  # likewise

            pooled = fill
        media = None
        if not task.pools:
            from rayllm_batch.workers.media_prompts import MediaPrompts  # likewise

            media = MediaPrompts.of(config, media_rules(self.workload))
        kwargs = config.engine_kwargs
        revision = kwargs.get("tokenizer_revision") or kwargs.get("revision")
        of_tokenizer = {"trust_remote_code": kwargs.get("trust_remote_code"), "revision": revision}
        return PromptJob(
            parse_row=getattr(self.workload, "parse_row", dict),  # which one with a rollout may lack
            tokenizer=kwargs.get("tokenizer") or config.model_id,
            tokenizer_kwargs={name: value for name, value in of_tokenizer.items() if value},
            monitor=monitor,
            chat_template=config.chat_template,
            chat_template_kwargs=config.chat_template_kwargs,
            rollouts=rollouts,
            pooled=pooled,
            task=task,
            sort=self.options.reorder and not self.options.preserve_order,
            as_text=config.engine_kind.tokenizes,
            media=media,
            **folder_job,
        )

    def _saw(self, snapshot: Optional[Snapshot]) -> Optional[Snapshot]:
        """The run's last second."""
        if snapshot:
            self.replicas.update(snapshot.replicas)
            self.history.observe(snapshot)
        return snapshot


def _kept_engines(plan: Plan, total: Optional[int]) -> Optional[WarmEngines]:
    """Engines that preview() or estimate() left running, if they suit; others are ended, since they have the GPUs."""
    least, most = plan.engines
    return warm.take(plan.config, least if least == most else 0, plan.blocks_in_flight(total))
