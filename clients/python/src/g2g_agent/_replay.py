"""A replay of the agent, in lockstep, as a datacenter of OpenG2G's coordinator."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from openg2g.clock import SimulationClock
from openg2g.datacenter.base import LLMBatchSizeControlledDatacenter
from openg2g.datacenter.command import DatacenterCommand, SetBatchSize, ShiftReplicas
from openg2g.datacenter.config import DatacenterConfig, InferenceModelSpec, PowerAugmentationConfig
from openg2g.datacenter.offline import OfflineDatacenter, OfflineWorkload
from openg2g.events import EventEmitter

from g2g_agent import _site
from g2g_agent._rarely import Run
from g2g_agent._site import AgentWorkload
from g2g_agent._states import (
    FIELDS,
    AgentDatacenterState,
    Block,
    add_phase_shares,
    drop_phase_shares,
    phase_shares,
    place_of,
    state_at,
)
from g2g_agent.binary import find_binary
from g2g_agent.client import Client
from g2g_agent.config import Config
from g2g_agent.errors import AgentError, ConnectionFailed, StartFailed
from g2g_agent.models import Model, ReplicaShift
from g2g_agent.process import Agent

logger = logging.getLogger(__name__)

# The most steps of one request, by the agent's limit.
MAX_STEPS = 10_000
# The exit status of an agent that refuses what it was given.
WRONG_INPUT = 2


class StepsAhead(AgentError, RuntimeError):
    """A command came while steps that had been asked for ahead were still to be taken: it would act too late."""


class AgentDatacenter(LLMBatchSizeControlledDatacenter[AgentDatacenterState]):
    """OpenG2G's `OfflineDatacenter`, computed by the agent: the same numbers, in a fraction of the time.

    It takes `OfflineDatacenter`'s own arguments, so that one line changes. Controllers, statistics and plots that ask
    for an `OfflineDatacenter` or its states take it and its states as such.

    It starts a `g2g-agent replay` of its own, which ends with it: by `close()`, at the end of a `with`, when it is
    collected, or with this program, however that ends.

    Args:
        datacenter: OpenG2G's facility.
        workload: OpenG2G's workload, or an `AgentWorkload`, which only names its data.
        name: The datacenter's name.
        dt_s: The time step in seconds.
        seed: Of layout, noise and latencies.
        power_augmentation: OpenG2G's power augmentation.
        total_gpu_capacity: GPUs that the datacenter can host.
        data_dir: The directory that the workload's data were loaded from. Not needed: without it the data in memory are
            written to a temporary one, once for each `InferenceData`, which takes a second or two.
        duration_s: The `duration_s` that the data were loaded with, in seconds. Found out from the data, but for an
            `AgentWorkload`. The run may be longer: then the data are gone through again, as in OpenG2G.
        steady_skip_s: With `data_dir`, the `steady_skip_s` that the data were loaded with, in seconds.
        control_dt_s: How often commands come, in seconds: the smallest `dt_s` of the controllers. The steps up to the
            next command are then asked for at once, at a quarter of the time. None, one step a request, is always
            right; with a wrong one a command that comes early raises `StepsAhead`.
        control_from_step: The first step that a command may precede: 1, since OpenG2G's controllers act after
            the first step; 0 for programs that command before it.
        binary: The agent's program, where it is not to be looked for.

    Raises:
        ValueError: The arguments do not fit together, or the agent refuses them.
        TypeError: An argument is of the wrong kind.
        StartFailed: The agent did not start.
    """

    _keep: OfflineWorkload | AgentWorkload | None
    _specs: tuple[InferenceModelSpec, ...]
    _sizes: dict[str, Collection[int]]  # that there are data of

    def __init__(
        self,
        datacenter: DatacenterConfig,
        workload: OfflineWorkload | AgentWorkload,
        *,
        name: str,
        dt_s: Fraction,
        seed: int = 0,
        power_augmentation: PowerAugmentationConfig | None = None,
        total_gpu_capacity: int,
        data_dir: str | Path | None = None,
        duration_s: float | Fraction | None = None,
        steady_skip_s: float = 0.0,
        control_dt_s: Fraction | None = None,
        control_from_step: int = 1,
        binary: str | Path | None = None,
    ) -> None:
        super().__init__(name=name)
        export: Path | None = None
        if workload.training:
            export = _site.temporary_dir(self)
        data = workload.inference_data if isinstance(workload, OfflineWorkload) else None
        exported = data_dir is None and data is not None
        if data is not None and exported:
            data_dir = _site.EXPORTS.data_dir(data, dt_s)
        config = _site.site_config(
            datacenter,
            workload,
            power_augmentation,
            dt_s=dt_s,
            total_gpu_capacity=total_gpu_capacity,
            name=name,
            seed=seed,
            data_dir=data_dir,
            duration_s=duration_s,
            steady_skip_s=0.0 if exported else steady_skip_s,
            export_dir=export,
        )
        self._set_up(config.replace({"replay.at_end": "continue"}), control_dt_s, control_from_step, binary)
        self._specs = _site.models_of(workload)
        self._sizes = _site.batch_sizes(workload)
        self._keep = workload  # its data are in the directory that the agent reads
        self._begin()

    def _begin(self) -> None:
        """Start an agent, and learn of the site from it."""
        self._open()
        try:
            self._set_up_models()
        except BaseException:
            self._end()
            raise

    def _set_up(
        self, config: Config | None, control_dt_s: Fraction | None, control_from_step: int, binary: str | Path | None
    ) -> None:
        self._config = config
        self._binary = binary
        self._control_dt_s = control_dt_s
        self._control_from_step = int(control_from_step)
        if self._control_from_step < 0:
            raise ValueError(f"control_from_step must be at least 0, got {control_from_step}")
        self._keep = None
        self._agent: Agent | None = None
        self._client: Client | None = None
        self._closed = False
        self._under_way = Run()
        weakref.finalize(self, self._under_way.end)
        self._attached = self._owns_client = False
        self._fields: tuple[str, ...] = FIELDS
        self._run: dict[str, Any] = {}  # what a reset is to change of the configuration
        self._specs = ()
        self._sizes = {}
        self._forget()

    def _forget(self) -> None:
        """Be before the first step."""
        self._block: Block | None = None
        self._at = 0  # the place in the block of the next state
        self._steps = 0  # states taken
        self._tick_s: Fraction | None = None  # the clock's, and how many make a step
        self._ticks: int | Fraction = 1
        self._pending_batch: dict[str, int] = {}
        self._pending_shifts: list[ReplicaShift] = []
        self._fresh = True  # the agent is at the run's beginning

    def _set_up_models(self) -> None:
        """What the agent's own answers tell of the site."""
        client = self.client
        info = client.info()
        if info.pace != "lockstep":
            raise ValueError(
                f"{client.url}: the agent runs at its own pace; AgentDatacenter steps a replay that was started with "
                "--pace step, LiveAgentDatacenter follows one that runs by itself"
            )
        self._dt_s = info.dt_s
        self._total_gpu_capacity = info.total_gpu_capacity
        self._n = self._block_steps(self._control_dt_s)
        self._models: dict[str, Model] = dict(client.models())
        self._initial_replicas = {
            label: m.replica_schedule.initial if m.replica_schedule is not None else m.replicas - m.replica_shift
            for label, m in self._models.items()
        }
        if not self._sizes:
            self._sizes = {label: m.batch_sizes for label, m in self._models.items() if m.batch_sizes}
        if not self._specs:
            self._specs = tuple(model_spec(m) for m in self._models.values())
        self._start_values()

    def _start_values(self) -> None:
        self._batch = {label: m.initial_batch_size for label, m in self._models.items()}
        self._shift = dict.fromkeys(self._models, 0)

    def _block_steps(self, control_dt_s: Fraction | None) -> int:
        if control_dt_s is None:
            return 1
        steps = Fraction(control_dt_s) / self._dt_s
        if steps.denominator != 1 or steps < 1:
            raise ValueError(f"control_dt_s ({control_dt_s}) must be a multiple of the time step ({self._dt_s} s)")
        return int(steps)

    def _open(self) -> None:
        """Have an agent that is at the beginning of the configured run."""
        if self._config is None:
            return
        try:
            self._agent = Agent.replay(self._config, pace="step", commands=None, binary=self._binary or find_binary())
        except StartFailed as err:
            if err.exit_status == WRONG_INPUT:
                raise ValueError(str(err)) from None
            raise
        self._finalizer = weakref.finalize(self, _end, self._agent)
        self._client = self._agent.client

    # What OpenG2G's backends have

    @property
    def dt_s(self) -> Fraction:
        """The time step in seconds."""
        return self._dt_s

    @property
    def total_gpu_capacity(self) -> int:
        """GPUs that the datacenter can host."""
        return self._total_gpu_capacity

    def current_gpu_usage(self) -> int:
        """GPUs of the initial replicas and of the shifts since, whatever the schedules have done, as OpenG2G counts."""
        return sum(
            max(0, self._initial_replicas[label] + self._shift[label]) * m.gpus_per_replica
            for label, m in self._models.items()
        )

    def available_gpu_capacity(self) -> int:
        """GPUs that are left for replicas of other sites."""
        return max(0, self._total_gpu_capacity - self.current_gpu_usage())

    @property
    def phase_share_by_model(self) -> dict[str, np.ndarray[Any, Any]]:
        """The part of each model's servers on phases A, B and C at the last step, of models that have servers."""
        if self._state is None:
            return {}
        place = place_of(self._state)
        if place is None:
            return {}
        block, i = place
        if "phase_share_by_model" not in block.columns:
            # Asked for from now on, since most runs never need them. Those of these steps the agent still has.
            self._fields = (*FIELDS, "phase_share_by_model")
            kept = {state.seq: state.raw["phase_share_by_model"] for state in self.client.history(block.steps)}
            add_phase_shares(block, kept)
        return phase_shares(block, i)

    def step(self, clock: SimulationClock, events: EventEmitter) -> AgentDatacenterState:
        """The next step's state.

        Raises:
            RuntimeError: The replay is over, a shift finds no servers, or the clock is not where this datacenter is.
            ConnectionFailed: The agent is gone.
        """
        block = self._block
        if block is None or self._at >= block.steps:
            block = self._ask(clock)
        i = self._at
        self._at = i + 1
        self._steps += 1
        return state_at(block, i)

    def _ask(self, clock: SimulationClock) -> Block:
        self._check_open()
        n, k = self._n, self._steps
        if clock.tick_s is not self._tick_s:
            ticks = self._dt_s / clock.tick_s
            self._tick_s, self._ticks = clock.tick_s, int(ticks) if ticks.denominator == 1 else ticks
        if clock.step != k * self._ticks:
            raise RuntimeError(
                f"{self.name}: the clock is at {clock.time_s} s, but the next step is that of "
                f"{float(k * self._dt_s)} s: step it once each dt_s from 0 on, and reset it with the coordinator"
            )
        # Up to the next step that a command may precede: those are control_from_step, and n, 2n, … more.
        ahead = self._control_from_step - k
        steps = n if ahead == 0 else (ahead if ahead > 0 else n - (-ahead) % n)
        if n == 1:
            steps = 1
        self._fresh = False
        batch, shifts = self._pending_batch, self._pending_shifts
        if batch or shifts:
            self._pending_batch, self._pending_shifts = {}, []
        block = Block(
            self.client.step(
                min(steps, MAX_STEPS), fields=self._fields, batch_size_by_model=batch or None, replica_shifts=shifts
            )
        )
        if block.steps == 0:
            raise RuntimeError(
                f"{self.name}: the replay is over after {self._steps} steps; with at_end: continue it would go on"
            )
        if block.first_seq != k:
            raise RuntimeError(
                f"{self.name}: the agent's next step was number {block.first_seq}, and not {k}: reset it with the "
                "coordinator, and let nobody else step it"
            )
        if self._block is not None:
            drop_phase_shares(self._block)
        self._block, self._at = block, 0
        return block

    @functools.singledispatchmethod
    def apply_control(  # pyright: ignore[reportIncompatibleMethodOverride]  (as OpenG2G's own datacenters)
        self, command: DatacenterCommand, events: EventEmitter
    ) -> None:
        """Carry out a command. It holds from the next step on.

        Raises:
            TypeError: This kind of command is not known.
            ValueError: The command is wrong: no such model, no data for a batch size, a ramp-up rate.
            StepsAhead: It came before the steps that `control_dt_s` had asked for were taken.
        """
        raise TypeError(f"AgentDatacenter does not support {type(command).__name__}")

    @apply_control.register
    def apply_control_set_batch_size(self, command: SetBatchSize, events: EventEmitter) -> None:
        """Set batch sizes."""
        if command.ramp_up_rate_by_model:
            raise ValueError(
                "a replay changes batch sizes at once: leave out ramp_up_rate_by_model "
                f"(got {command.ramp_up_rate_by_model})"
            )
        wanted: dict[str, int] = {}
        for label, batch_size in command.batch_size_by_model.items():
            model = self._known(str(label), "SetBatchSize")
            wanted[model.model_label] = _runnable(
                model.model_label, int(batch_size), self._sizes.get(model.model_label)
            )
        self._check_due()
        self._pending_batch.update(wanted)
        self._batch.update(wanted)
        self._flush()
        events.emit("datacenter.batch_size.updated", {"batch_size_by_model": dict(self._batch)})

    @apply_control.register
    def apply_control_shift_replicas(self, command: ShiftReplicas, events: EventEmitter) -> None:
        """Add replicas to a model or take some away."""
        label, delta = self._known(command.model_label, "ShiftReplicas").model_label, int(command.replica_delta)
        self._check_due()
        self._pending_shifts.append(ReplicaShift(label, delta))
        self._shift[label] += delta
        self._flush()
        effective = max(0, self._initial_replicas[label] + self._shift[label])
        events.emit(
            "datacenter.replicas.shifted",
            {"model_label": label, "replica_delta": delta, "effective_replicas": effective},
        )

    def _known(self, label: str, command: str) -> Model:
        model = self._models.get(label)
        if model is None:
            raise ValueError(f"{command}: unknown model {label!r}; there are {', '.join(map(repr, self._models))}")
        return model

    def _check_due(self) -> None:
        self._check_open()
        if self._block is not None and self._at < self._block.steps:
            left = self._block.steps - self._at
            raise StepsAhead(
                f"{self.name}: a command came before step {self._steps}, but {left} more steps had been asked for "
                f"(control_dt_s={self._control_dt_s}): give the smallest dt_s of the controllers as control_dt_s, or "
                "leave it out"
            )

    def _flush(self) -> None:
        """Send commands at once where the agent is somebody else's: they may be refused for reasons not known here."""
        if not self._attached:
            return
        batch, shifts = self._pending_batch, self._pending_shifts
        self._pending_batch, self._pending_shifts = {}, []
        self._fresh = False
        self.client.step(0, batch_size_by_model=batch or None, replica_shifts=shifts)

    def reset(self) -> None:
        """Go back to the beginning of the run, with the same seed: the same states come again."""
        self._check_open()
        fresh = self._fresh and not self._pending_batch and not self._pending_shifts
        self._forget()
        self._start_values()
        if not fresh:
            self._reset_agent(self._run)

    def _reset_agent(self, run: dict[str, Any]) -> None:
        try:
            self.client.reset(**run)
        except ConnectionFailed:
            if self._agent is None:
                raise
            logger.warning("%s: the agent is gone; another one is started", self.name)
            self._end()
            self._open()
            if run:
                self.client.reset(**run)

    def start(self) -> None:
        """Begin a run. Until its end full garbage collections are rarer."""
        self._check_open()
        self._under_way.begin()

    def stop(self) -> None:
        """End a run. The last state stays readable."""
        self._under_way.end()

    # What is the agent's own

    @classmethod
    def from_config(
        cls,
        config: Config | Mapping[str, Any] | str | Path,
        *,
        name: str | None = None,
        control_dt_s: Fraction | None = None,
        control_from_step: int = 1,
        at_end: str = "continue",
        commands: Iterable[Mapping[str, Any]] = (),
        binary: str | Path | None = None,
    ) -> AgentDatacenter:
        """A datacenter of the agent's own configuration.

        Args:
            config: The configuration, or its file.
            name: The datacenter's name; by default the configuration's.
            control_dt_s: See the class.
            control_from_step: See the class.
            at_end: What comes after the configured duration: `continue`, as with OpenG2G, or `stop`.
            commands: Commands to carry out by itself, as in `replay.commands`; those of the configuration are not.
            binary: See the class.
        """
        if isinstance(config, (str, Path)):
            config = Config.load(config, binary=binary)
        elif not isinstance(config, Config):
            config = Config(config)
        config = config.replace({"replay.at_end": at_end, "replay.commands": list(commands)})
        self = cls.__new__(cls)
        LLMBatchSizeControlledDatacenter.__init__(self, name=name or config.at("datacenter.name", "dc"))
        self._set_up(config.resolved(Path.cwd()), control_dt_s, control_from_step, binary)
        self._begin()
        return self

    @classmethod
    def attach(
        cls,
        url: str | Client,
        *,
        token: str | None = None,
        name: str | None = None,
        control_dt_s: Fraction | None = None,
        control_from_step: int = 1,
    ) -> AgentDatacenter:
        """A datacenter of a replay that was started elsewhere, with `--pace step`. It is reset, and left running.

        Args:
            url: The agent's address, or a client of it.
            token: The token for commands.
            name: The datacenter's name; by default the agent's.
            control_dt_s: See the class.
            control_from_step: See the class.
        """
        client = url if isinstance(url, Client) else Client(url, token=token)
        self = cls.__new__(cls)
        try:
            LLMBatchSizeControlledDatacenter.__init__(self, name=name or client.info().name)
            self._set_up(None, control_dt_s, control_from_step, None)
            self._attached, self._owns_client = True, client is not url
            self._client = client
            self._set_up_models()
        except BaseException:
            if client is not url:
                client.close()
            raise
        self._fresh = False
        return self

    @property
    def client(self) -> Client:
        """The agent's API. Commands of controllers reach the agent with the next step."""
        self._check_open()
        if self._client is None:
            raise RuntimeError(f"{self.name}: there is no agent")
        return self._client

    @property
    def process_id(self) -> int | None:
        """The id of the agent's process; None if it was started elsewhere, or has ended."""
        return None if self._agent is None else self._agent.process.pid

    @property
    def config(self) -> Config | None:
        """The configuration that the agent runs; None if it was started elsewhere."""
        return self._config

    @property
    def inference_models(self) -> tuple[InferenceModelSpec, ...]:
        """OpenG2G's specifications of the models, which controllers take."""
        return self._specs

    @property
    def control_dt_s(self) -> Fraction | None:
        """How often commands come, in seconds; None: one step a request. It can be set between runs."""
        return self._control_dt_s

    @control_dt_s.setter
    def control_dt_s(self, value: Fraction | None) -> None:
        if self._block is not None:
            raise RuntimeError(f"{self.name}: control_dt_s can be set before the first step only")
        self._n = self._block_steps(value)
        self._control_dt_s = value

    def reconfigure(
        self,
        *,
        seed: int | None = None,
        replica_schedules: Mapping[str, Any] | None = None,
        initial_batch_sizes: Mapping[str, int] | None = None,
        duration_s: float | None = None,
    ) -> None:
        """Reset to another run of the same site, such as the next of a sweep or the next episode, in the same process.

        What is not named is as at the datacenter's construction. A later `reset()` gives that run again.

        Args:
            seed: Of layout, noise and latencies.
            replica_schedules: OpenG2G's `ReplicaSchedule` by model label.
            initial_batch_sizes: Batch sizes at the start by model label.
            duration_s: How long the run is, in seconds, where it ends.

        Raises:
            ValueError: The agent refuses a value.
            RuntimeError: The GPUs would not suffice.
        """
        body: dict[str, Any] = {}
        if seed is not None:
            body["seed"] = int(seed)
        if replica_schedules is not None:
            body["replicas"] = {label: _site.replicas_entry(s) for label, s in replica_schedules.items()}
        if initial_batch_sizes is not None:
            body["initial_batch_sizes"] = {label: int(b) for label, b in initial_batch_sizes.items()}
        if duration_s is not None:
            body["duration_s"] = duration_s
        self._check_open()
        self._reset_agent(body)
        self._run = body
        self._forget()
        self._set_up_models()

    def close(self) -> None:
        """End the agent, or leave one that was started elsewhere. The last state stays readable."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        self._end()

    def _end(self) -> None:
        if self._agent is not None:
            self._finalizer()
        elif self._client is not None and self._owns_client:
            self._client.close()
        self._agent, self._client = None, None

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"{self.name} is closed")

    def __enter__(self) -> AgentDatacenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _runnable(label: str, batch_size: int, sizes: Collection[int] | None) -> int:
    """A batch size that a model has data of, as far as that is known."""
    if batch_size <= 0:
        raise ValueError(f"SetBatchSize: the batch size of {label!r} must be above 0, got {batch_size}")
    if sizes and batch_size not in sizes:
        raise ValueError(f"SetBatchSize: {label!r} has no data at batch size {batch_size}; it has {sorted(sizes)}")
    return batch_size


def _end(agent: Agent) -> None:
    agent.close()


def model_spec(model: Model) -> InferenceModelSpec:
    """OpenG2G's specification of a model that the agent tells of. What the agent does not know is empty."""
    feasible = tuple(model.feasible_batch_sizes)
    return InferenceModelSpec(
        model_label=model.model_label,
        model_id=model.model_id,
        gpu_model=model.gpu_model or "",
        task=model.task or "",
        precision=model.precision or "bfloat16",
        gpus_per_replica=model.gpus_per_replica,
        tensor_parallel=model.tensor_parallel or 1,
        itl_deadline_s=model.itl_deadline_s,
        batch_sizes=tuple(sorted({*(model.batch_sizes or ()), *feasible})),
        feasible_batch_sizes=feasible,
    )


# So that what asks for an OfflineDatacenter, as LoadShiftController does, takes it.
OfflineDatacenter.register(AgentDatacenter)
