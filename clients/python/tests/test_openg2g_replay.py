"""AgentDatacenter does what OpenG2G's datacenters do."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import os
import pickle
import signal
import weakref
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openg2g")

from openg2g.clock import SimulationClock
from openg2g.datacenter.base import DatacenterBackend, LLMBatchSizeControlledDatacenter
from openg2g.datacenter.command import DatacenterCommand, SetBatchSize, ShiftReplicas
from openg2g.datacenter.config import ReplicaSchedule
from openg2g.datacenter.offline import OfflineDatacenter, OfflineDatacenterState
from openg2g.datacenter.workloads.inference import InferenceData, ITLFitStore

from g2g_agent import Agent, Client
from g2g_agent.errors import ConnectionFailed
from g2g_agent.openg2g import AgentDatacenter, AgentDatacenterState, StepsAhead
from sites import DATA, LARGE, SKIP_S, SMALL, Driver, Site, all_same, ended

S, L = SMALL.model_label, LARGE.model_label


def both(site: Site, binary: Path, **options: Any) -> tuple[Driver, Driver]:
    return Driver(site.offline()), Driver(site.agent(binary, **options))


@pytest.mark.parametrize("control_dt_s", [None, Fraction(1), Fraction(1, 2), Fraction(1, 10)])
def test_the_numbers_are_those_of_offline_datacenter(binary: Path, control_dt_s: Fraction | None) -> None:
    theirs, ours = both(Site(), binary, control_dt_s=control_dt_s)
    with ours.datacenter:
        all_same(ours.step(150), theirs.step(150))


@pytest.mark.parametrize(
    "site",
    [
        Site().but(trained=False, noise=0.0),
        Site().but(dt_s=Fraction(1, 3), duration_s=10),
        Site().but(dt_s=Fraction(1), duration_s=30),
        Site().but(schedules={S: ReplicaSchedule(initial=40)}),
        Site().but(initial={}),
        Site().but(capacity=163, seed=2**31),
        Site().but(duration_s=0.3),
    ],
    ids=["plain", "thirds", "seconds", "a model without replicas", "first feasible", "odd capacity", "short templates"],
)
def test_other_sites(binary: Path, site: Site) -> None:
    theirs, ours = both(site, binary, control_dt_s=site.dt_s * 4)
    with ours.datacenter:
        all_same(ours.step(50), theirs.step(50))


def test_the_data_may_lie_in_a_directory(binary: Path) -> None:
    site = Site()
    theirs = Driver(site.offline())
    ours = Driver(site.agent(binary, data_dir=DATA, steady_skip_s=SKIP_S))
    named = Driver(
        AgentDatacenter(
            site.facility,
            site.naming(),
            binary=binary,
            data_dir=os.path.relpath(DATA),
            duration_s=site.duration_s,
            steady_skip_s=SKIP_S,
            **site.common,
        )
    )
    with ours.datacenter, named.datacenter:
        expected = theirs.step(60)
        all_same(ours.step(60), expected)
        all_same(named.step(60), expected)
        assert ours.datacenter.inference_models == named.datacenter.inference_models == site.specs


def test_a_run_longer_than_its_data_goes_through_them_again(binary: Path) -> None:
    theirs, ours = both(Site().but(duration_s=3), binary, control_dt_s=Fraction(2))
    with ours.datacenter:
        all_same(ours.step(100), theirs.step(100))


def test_commands_hold_from_the_next_step_on(binary: Path) -> None:
    theirs, ours = both(Site(), binary, control_dt_s=Fraction(1))
    with ours.datacenter:
        for drive in (theirs, ours):
            states = drive.step()
            drive.command(SetBatchSize(batch_size_by_model={S: 8, L: 256}, target=drive.datacenter))
            assert states[0].batch_size_by_model == {S: 64, L: 32}
            assert drive.datacenter.state.batch_size_by_model == {S: 64, L: 32}
            assert drive.step()[0].batch_size_by_model == {S: 8, L: 256}
        for _ in range(5):
            all_same(ours.step(9), theirs.step(9))
            for drive in (theirs, ours):
                drive.command(ShiftReplicas(model_label=L, replica_delta=-1, target=drive.datacenter))
                drive.command(SetBatchSize(batch_size_by_model={S: 32}, target=drive.datacenter))
                drive.command(ShiftReplicas(model_label=S, replica_delta=3, target=drive.datacenter))
                drive.command(SetBatchSize(batch_size_by_model={S: 128}, target=drive.datacenter))
            all_same(ours.step(), theirs.step())
        assert ours.topics() == theirs.topics()


def test_commands_before_the_first_step(binary: Path) -> None:
    site = Site()
    theirs = Driver(site.offline())
    ours = Driver(site.agent(binary, control_dt_s=Fraction(1), control_from_step=0))
    with ours.datacenter:
        for batch_size in (8, 16, 512):
            for drive in (theirs, ours):
                drive.command(SetBatchSize(batch_size_by_model={S: batch_size}, target=drive.datacenter))
            all_same(ours.step(10), theirs.step(10))


def test_a_command_after_the_last_step_is_no_mistake(binary: Path) -> None:
    site = Site()
    with site.agent(binary) as datacenter:
        drive = Driver(datacenter)
        drive.step(200)  # all of duration_s
        drive.command(SetBatchSize(batch_size_by_model={S: 8}, target=datacenter))
        datacenter.stop()
        assert datacenter.state.time_s == pytest.approx(19.9)


def test_a_command_that_comes_early_is_refused(binary: Path) -> None:
    with Site().agent(binary, control_dt_s=Fraction(1)) as datacenter:
        drive = Driver(datacenter)
        drive.step(4)
        with pytest.raises(StepsAhead, match=r"step 4.*7 more steps.*control_dt_s=1"):
            drive.command(SetBatchSize(batch_size_by_model={S: 8}, target=datacenter))
        with pytest.raises(StepsAhead):
            drive.command(ShiftReplicas(model_label=S, replica_delta=1, target=datacenter))
        drive.step(7)
        drive.command(SetBatchSize(batch_size_by_model={S: 8}, target=datacenter))
        assert drive.step()[0].batch_size_by_model[S] == 8


def test_what_is_wrong_with_a_command(binary: Path) -> None:
    with Site().agent(binary) as datacenter:
        drive = Driver(datacenter)
        drive.step()

        def refused(error: type[Exception], match: str, command: DatacenterCommand) -> None:
            with pytest.raises(error, match=match):
                drive.command(command)

        refused(
            ValueError,
            "ramp_up_rate",
            SetBatchSize(batch_size_by_model={S: 8}, ramp_up_rate_by_model={S: 1.0}, target=datacenter),
        )
        refused(ValueError, "above 0", SetBatchSize(batch_size_by_model={S: 0}, target=datacenter))
        refused(ValueError, "unknown model 'M'", SetBatchSize(batch_size_by_model={"M": 8}, target=datacenter))
        refused(
            ValueError, "no data at batch size 512.*256", SetBatchSize(batch_size_by_model={L: 512}, target=datacenter)
        )
        refused(ValueError, "unknown model 'M'", ShiftReplicas(model_label="M", replica_delta=1, target=datacenter))

        class Unknown(DatacenterCommand):
            target = datacenter

        refused(TypeError, "Unknown", Unknown())
        # A command that is wrong in part does nothing.
        refused(ValueError, "no data", SetBatchSize(batch_size_by_model={S: 8, L: 512}, target=datacenter))
        assert drive.step()[0].batch_size_by_model == {S: 64, L: 32}
        assert drive.seen == []


def test_batch_sizes_need_data_not_leave(binary: Path) -> None:
    """As with OpenG2G, whose OFO commands each model a size that some model may run."""
    sizes = {"feasible_batch_sizes": (32, 64)}
    site = Site().but(specs=(SMALL.model_copy(update=sizes), LARGE.model_copy(update=sizes)))
    theirs, ours = both(site, binary)
    with ours.datacenter:
        for drive in (theirs, ours):
            drive.step()
            drive.command(SetBatchSize(batch_size_by_model={S: 512}, target=drive.datacenter))
        all_same(ours.step(10), theirs.step(10))


def test_capacity_is_counted_as_openg2g_does(binary: Path) -> None:
    theirs, ours = both(Site(), binary)
    with ours.datacenter:

        def counts(drive: Driver) -> tuple[int, int, int]:
            dc = drive.datacenter
            return dc.total_gpu_capacity, dc.current_gpu_usage(), dc.available_gpu_capacity()

        assert counts(ours) == counts(theirs) == (160, 88, 72)
        for drive in (theirs, ours):
            drive.step(100)  # a ramp has taken 24 replicas away, which is not counted
            drive.command(ShiftReplicas(model_label=L, replica_delta=4, target=drive.datacenter))
            assert counts(drive) == (160, 120, 40)
            drive.step()
        drive.command(ShiftReplicas(model_label=S, replica_delta=-1000, target=drive.datacenter))
        theirs.command(ShiftReplicas(model_label=S, replica_delta=-1000, target=theirs.datacenter))
        assert counts(ours) == counts(theirs)


def test_more_servers_than_there_are(binary: Path) -> None:
    theirs, ours = both(Site(), binary)
    with ours.datacenter:
        for drive in (theirs, ours):
            drive.step()
            drive.command(ShiftReplicas(model_label=L, replica_delta=1000, target=drive.datacenter))
            with pytest.raises(RuntimeError):
                drive.step()


def test_phase_shares(binary: Path) -> None:
    site = Site().but(schedules={S: ReplicaSchedule(initial=40).ramp_to(0, t_start=3, t_end=3)})
    theirs, ours = both(site, binary, control_dt_s=Fraction(1))
    with ours.datacenter:
        assert ours.datacenter.phase_share_by_model == {} == theirs.datacenter.phase_share_by_model
        for n in (1, 4, 3, 9, 20):  # 4 and 3: in the midst of an answer
            ours.step(n)
            theirs.step(n)
            mine, its = ours.datacenter.phase_share_by_model, theirs.datacenter.phase_share_by_model
            assert mine.keys() == its.keys()
            for label, share in its.items():
                assert mine[label].tolist() == share.tolist()


def test_reset_gives_the_same_run_again(binary: Path) -> None:
    with Site().agent(binary, control_dt_s=Fraction(1)) as datacenter:
        first = Driver(datacenter)
        states = first.step()
        first.command(SetBatchSize(batch_size_by_model={S: 8}, target=datacenter))
        states += first.step(25)  # ends in the midst of an answer
        assert len(datacenter.history()) == 26
        assert datacenter.history(2) == states[-2:]
        again = Driver(datacenter)
        assert datacenter.history() == []
        with pytest.raises(RuntimeError, match=r"before first step"):
            _ = datacenter.state
        assert datacenter.available_gpu_capacity() == 72
        states_again = again.step()
        assert states_again[0].batch_size_by_model == {S: 64, L: 32}
        again.command(SetBatchSize(batch_size_by_model={S: 8}, target=datacenter))
        all_same(states_again + again.step(25), states)


def test_a_command_before_a_reset_is_forgotten(binary: Path) -> None:
    with Site().agent(binary) as datacenter:
        drive = Driver(datacenter)
        drive.command(SetBatchSize(batch_size_by_model={S: 8}, target=datacenter))
        assert Driver(datacenter).step()[0].batch_size_by_model[S] == 64


def test_another_run_of_the_same_site(binary: Path) -> None:
    site = Site()
    other = site.but(seed=11, schedules={S: ReplicaSchedule(initial=16), L: ReplicaSchedule(initial=2)}, initial={S: 8})
    with site.agent(binary, control_dt_s=Fraction(1)) as datacenter:
        process_id = datacenter.process_id
        Driver(datacenter).step(20)
        datacenter.reconfigure(seed=11, replica_schedules=other.schedules, initial_batch_sizes={S: 8, L: 8})
        assert datacenter.current_gpu_usage() == 32
        expected = Driver(other.offline()).step(30)
        for _ in range(2):  # reset() gives it again
            all_same(Driver(datacenter).step(30), expected)
        datacenter.reconfigure()
        all_same(Driver(datacenter).step(30), Driver(site.offline()).step(30))
        assert datacenter.process_id == process_id
        with pytest.raises(RuntimeError):
            datacenter.reconfigure(replica_schedules={L: ReplicaSchedule(initial=1000)})


def test_the_clock_must_be_its_own(binary: Path) -> None:
    with Site().agent(binary) as datacenter:
        drive = Driver(datacenter)
        drive.step(3)
        with pytest.raises(RuntimeError, match=r"the clock is at 0.0 s.*0\.3"):
            datacenter.step(SimulationClock(tick_s=Fraction(1, 10)), drive.events)


def test_a_faster_coordinator(binary: Path) -> None:
    with Site().agent(binary) as datacenter:
        events = Driver(datacenter).events
        clock = SimulationClock(tick_s=Fraction(1, 20))
        for _ in range(10):
            if clock.is_due(datacenter.dt_s):
                assert datacenter.step(clock, events).time_s == clock.time_s
            clock.advance()


def test_it_passes_for_an_offline_datacenter(binary: Path) -> None:
    with Site().agent(binary) as datacenter:
        assert isinstance(datacenter, (OfflineDatacenter, LLMBatchSizeControlledDatacenter, DatacenterBackend))
        assert datacenter.name == "dc"
        assert datacenter.dt_s == Fraction(1, 10)
        state = Driver(datacenter).step()[0]
        assert isinstance(state, OfflineDatacenterState)


@pytest.mark.parametrize("control_dt_s", [None, Fraction(1)])
def test_states_are_dataclasses(binary: Path, control_dt_s: Fraction | None) -> None:
    """Members are made when they are read, which nobody notices."""
    with Site().agent(binary, control_dt_s=control_dt_s) as datacenter:
        states = Driver(datacenter).step(12)
        assert [state.seq for state in states] == list(range(12))
    state = states[5]
    names = [member.name for member in dataclasses.fields(state)]
    assert dataclasses.asdict(state).keys() == set(names)
    later = dataclasses.replace(state, time_s=9.0)
    assert later.time_s == 9.0
    assert later.power_w == state.power_w
    assert type(later) is AgentDatacenterState
    for other in (pickle.loads(pickle.dumps(states[6])), copy.copy(states[6]), copy.deepcopy(states[6])):
        assert other == states[6]
        assert other.power_by_model_w == states[6].power_by_model_w
    assert repr(state).startswith("AgentDatacenterState(time_s=0.5, power_w=ThreePhase(a=")
    assert state.power_by_model_w is state.power_by_model_w
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.time_s = 3.0
    with pytest.raises(AttributeError):
        _ = state.no_such_member


def test_states_outlive_the_datacenter(binary: Path) -> None:
    datacenter = Site().agent(binary, control_dt_s=Fraction(1))
    states = Driver(datacenter).step(30)
    datacenter.close()
    datacenter.close()
    all_same(states, Driver(Site().offline()).step(30))
    assert datacenter.state is states[-1]
    with pytest.raises(RuntimeError, match="closed"):
        datacenter.reset()


def test_no_latencies_without_fits(binary: Path) -> None:
    site = Site()
    data = site.data()
    bare = InferenceData(data.models, power_templates=data.power_templates)
    workload = dataclasses.replace(site.workload(), inference_data=bare)
    theirs = Driver(OfflineDatacenter(site.facility, workload, **site.common))
    ours = Driver(AgentDatacenter(site.facility, workload, binary=binary, **site.common))
    with ours.datacenter:
        states = ours.step(20)
        all_same(states, theirs.step(20))
        assert all(math.isnan(itl_s) for itl_s in states[0].observed_itl_s_by_model.values())


def test_what_is_wrong_with_a_site(binary: Path, tmp_path: Path) -> None:
    site = Site()
    with pytest.raises(ValueError, match=r"initial replicas need 88 GPUs.*80"):
        site.but(capacity=80).agent(binary)
    up = {S: ReplicaSchedule(initial=40).ramp_to(400, t_start=1, t_end=2), L: ReplicaSchedule(initial=6)}
    with pytest.raises(ValueError, match=r"at t=2.0 s the ramps need 448 GPUs"):
        site.but(schedules=up).agent(binary)
    with pytest.raises(ValueError, match=r"templates of duration_s=30 have 301 samples.*201"):
        site.agent(binary, duration_s=30)
    with pytest.raises(ValueError, match="are others than the workload's"):
        site.agent(binary, data_dir=DATA)  # without steady_skip_s
    with pytest.raises(ValueError, match="control_dt_s"):
        site.agent(binary, control_dt_s=Fraction(1, 4))
    with pytest.raises(TypeError, match="Fraction"):
        site.but(dt_s=0.1).agent(binary)
    with pytest.raises(ValueError, match="name data_dir and duration_s"):
        AgentDatacenter(site.facility, site.naming(), binary=binary, **site.common)
    with pytest.raises(ValueError, match=r"no such|not exist"):  # the agent's own words
        AgentDatacenter(
            site.facility, site.naming(), binary=binary, data_dir=tmp_path / "none", duration_s=5, **site.common
        )
    data = site.data()
    assert data.itl_fits is not None
    coarse = ITLFitStore(data.itl_fits.distributions, approx_sampling_thresh=5)
    workload = dataclasses.replace(
        site.workload(), inference_data=InferenceData(site.specs, power_templates=data.power_templates, itl_fits=coarse)
    )
    with pytest.raises(ValueError, match="approx_sampling_thresh"):
        AgentDatacenter(site.facility, workload, binary=binary, **site.common)


def test_a_config_of_the_agent_itself(binary: Path, replay_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(replay_config.parent)
    with AgentDatacenter.from_config(replay_config.name, binary=binary, control_dt_s=Fraction(1)) as datacenter:
        monkeypatch.chdir("/")  # as OpenDSS does
        assert datacenter.name == "dc"
        assert [spec.model_label for spec in datacenter.inference_models] == list(datacenter.client.models())
        drive = Driver(datacenter)
        first = drive.step(700)
        # What the config scripts is not carried out.
        assert first[-1].batch_size_by_model == first[0].batch_size_by_model
        # A run goes on past the config's duration, here 300 s.
        assert drive.step(2400)[-1].time_s == pytest.approx(309.9)


def test_a_config_that_ends(binary: Path, replay_config: Path) -> None:
    with AgentDatacenter.from_config(
        replay_config, binary=binary, control_dt_s=Fraction(100), at_end="stop", name="site"
    ) as datacenter:
        drive = Driver(datacenter)
        drive.step(3000)
        drive.command(SetBatchSize(batch_size_by_model={"Llama-3.1-8B": 8}, target=datacenter))
        with pytest.raises(RuntimeError, match=r"is over"):
            drive.step()


def test_an_agent_that_runs_elsewhere(binary: Path) -> None:
    site = Site()
    with site.agent(binary) as made:
        config = made.config
    assert config is not None
    with Agent.replay(config.replace({"training": []}), binary=binary) as agent:
        agent.client.step(7)
        theirs = Driver(site.but(trained=False).offline())
        with AgentDatacenter.attach(agent.url, control_dt_s=Fraction(1)) as datacenter:
            ours = Driver(datacenter)
            for drive in (theirs, ours):
                drive.step()
                drive.command(SetBatchSize(batch_size_by_model={S: 8}, target=drive.datacenter))
                drive.command(ShiftReplicas(model_label=L, replica_delta=-2, target=drive.datacenter))
            all_same(ours.step(10), theirs.step(10))
            # Commands are sent at once: they may be refused.
            assert agent.client.models()[L].replica_shift == -2
            with pytest.raises(RuntimeError):
                ours.command(ShiftReplicas(model_label=L, replica_delta=1000, target=datacenter))
            ours.step(10)
            agent.client.step(1)
            with pytest.raises(RuntimeError, match="let nobody else step it"):
                ours.step()
        assert agent.client.info().steps == 22 + 10  # it runs on; the last answer had ten
    with pytest.raises(ConnectionFailed):
        AgentDatacenter.attach(agent.url)


def test_a_live_agent_is_not_stepped(demo: Agent) -> None:
    with pytest.raises(ValueError, match="LiveAgentDatacenter"):
        AgentDatacenter.attach(demo.url)
    with Client(demo.url) as client, pytest.raises(ValueError, match="LiveAgentDatacenter"):
        AgentDatacenter.attach(client)


def test_its_process_ends_with_it(binary: Path) -> None:
    with Site().agent(binary) as datacenter:
        closed = datacenter.process_id
        assert closed is not None
        assert not ended(closed)
    assert ended(closed)
    forgotten = Site().agent(binary)
    Driver(forgotten).step(3)  # a cycle of references
    process_id, alive = forgotten.process_id, weakref.ref(forgotten)
    assert process_id is not None
    del forgotten
    gc.collect()
    assert alive() is None
    assert ended(process_id)


def test_a_dead_agent_is_replaced_at_reset(binary: Path) -> None:
    with Site().agent(binary, control_dt_s=Fraction(1)) as datacenter:
        states = Driver(datacenter).step(5)
        process_id = datacenter.process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
        drive = Driver(datacenter)
        all_same(drive.step(5), states)
        assert datacenter.process_id != process_id
        new = datacenter.process_id
        assert new is not None
        os.kill(new, signal.SIGKILL)
        with pytest.raises(ConnectionFailed):
            drive.step(100)


def test_data_in_memory_are_written_once(binary: Path) -> None:
    site = Site()
    workload = site.workload()
    with (
        AgentDatacenter(site.facility, workload, binary=binary, **site.common) as one,
        AgentDatacenter(site.facility, workload, binary=binary, **site.common) as two,
    ):
        assert one.config is not None
        assert two.config is not None
        directory = Path(one.config.at("replay.data_dir"))
        assert two.config.at("replay.data_dir") == str(directory)
        assert directory.is_dir()
    del workload, one, two
    gc.collect()
    assert not directory.exists()


def test_garbage_collection_is_as_before_after_a_run(binary: Path) -> None:
    before = gc.get_threshold()
    with Site().agent(binary) as datacenter, Site().agent(binary) as other:
        Driver(datacenter)
        datacenter.start()  # a second time does nothing
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > before[2]
        Driver(other)
        datacenter.stop()
        datacenter.stop()
        assert gc.get_threshold()[2] > before[2]
        other.stop()
        assert gc.get_threshold() == before
        Driver(datacenter)
    assert gc.get_threshold() == before
    forgotten = Site().agent(binary)
    forgotten.start()
    gc.set_threshold(before[0], before[1], before[2] + 1)  # a program that does so itself
    try:
        del forgotten
        gc.collect()
        assert gc.get_threshold()[2] == before[2] + 1
    finally:
        gc.set_threshold(*before)
