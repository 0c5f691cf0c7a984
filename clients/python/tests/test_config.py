"""Config, and what is made of OpenG2G's objects."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from g2g_agent import Agent
from g2g_agent.config import Config, main

KEYS: dict[str, Any] = {
    "seed": 7,
    "dt_s": "1/3",
    "datacenter": {"name": "dc", "total_gpu_capacity": 64},
    "models": [
        {"model_label": "a: b", "feasible_batch_sizes": [8, 16], "live": {"api_key_file": "key"}},
        {"model_label": "M", "replicas": {"initial": 3, "ramps": [{"target": 1, "t_start": 2.5, "t_end": 3.0}]}},
    ],
    "replay": {"data_dir": "data", "duration_s": 0.1},
}


def test_a_config_is_a_mapping_that_does_not_change() -> None:
    config = Config(KEYS)
    assert isinstance(config, Mapping)
    assert config == KEYS
    assert config == Config(KEYS)
    assert dict(config) == KEYS
    assert len(config) == 5
    config["models"][0]["model_label"] = "other"
    config.to_dict()["seed"] = 8
    assert config == KEYS
    assert hash(config) == hash(Config(KEYS))
    assert config != Config({})
    assert eval(repr(config), {"Config": Config}) == config


def test_values_that_python_has() -> None:
    config = Config({"a": Path("x/y"), "b": (1, 2), "c": Fraction(1, 10), "d": Fraction(1, 3), "e": Fraction(4, 2)})
    assert config == {"a": "x/y", "b": [1, 2], "c": 0.1, "d": "1/3", "e": 2}
    for wrong, match in (({"a": float("nan")}, "nan"), ({1: 2}, "1"), ({"a": {"b": object()}}, r"a\.b.*object")):
        with pytest.raises(TypeError, match=match):
            Config(wrong)  # type: ignore[arg-type]


def test_looking_and_replacing() -> None:
    config = Config(KEYS)
    assert config.at("models[1].replicas.ramps[0].target") == 1
    assert config.at("models[7].replicas", "none") == "none"
    assert config.at("replay.duration_s.x") is None
    changed = config.replace(
        {"seed": None, "replay.duration_s": 5, "live.stagger_s": 1, "models[0].feasible_batch_sizes[1]": 32}
    )
    assert "seed" not in changed
    assert changed.at("replay.duration_s") == 5
    assert changed.at("live.stagger_s") == 1
    assert changed.at("models[0].feasible_batch_sizes") == [8, 32]
    assert config == KEYS
    for path in ("models[2].model_label", "seed.x", "models[0", "models[x]", ""):
        with pytest.raises(KeyError):
            config.replace({path: 1})


def test_paths() -> None:
    config = Config(KEYS).resolved("/site")
    assert config.at("replay.data_dir") == "/site/data"
    assert config.at("models[0].live.api_key_file") == "/site/key"
    assert config.resolved("/other") == config


def test_json_is_read_without_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "site.json"
    Config(KEYS).save(path)
    assert json.loads(path.read_text()) == KEYS
    assert Config.load(path) == Config(KEYS).resolved(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="mapping, not list"):
        Config.load(path)
    with pytest.raises(FileNotFoundError):
        Config.load(tmp_path / "none.json")


def test_the_agent_reads_the_yaml_that_is_written(binary: Path, replay_config: Path, tmp_path: Path) -> None:
    config = Config.load(replay_config, binary=binary)
    assert config.at("replay.data_dir") == str(replay_config.parent / "example-data")
    path = tmp_path / "again.yaml"
    config.save(path)
    assert Config.load(path, binary=binary) == config
    assert 'model_label: "Llama-3.1-8B"' in path.read_text()
    with (
        Agent.replay(replay_config, binary=binary) as by_path,
        Agent.replay(config, binary=binary) as by_value,
        Agent.replay(path, binary=binary) as by_yaml,
    ):
        agents = (by_path, by_value, by_yaml)
        assert len({str(agent.client.step(50).raw) for agent in agents}) == 1


def test_what_is_wrong_with_a_file(binary: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("sed: 3\nmodels: {\n")
    with pytest.raises(ValueError, match=r"wrong\.yaml"):
        Config.load(path, binary=binary)


SITE = """
from fractions import Fraction
from openg2g.datacenter.config import DatacenterConfig
from sites import Site

site = Site()
datacenter = site.offline()

def plain():
    return site.but(trained=False).offline()

config = __import__("g2g_agent.config").config.Config({"seed": 3})
number = 3
"""


def test_printing_a_site(
    binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openg2g")
    from sites import DATA, SKIP_S, Driver, Site, all_same

    path = tmp_path / "g2g_site.py"
    path.write_text(SITE)
    monkeypatch.syspath_prepend(tmp_path)  # and back again
    arguments = [f"{path}:datacenter", f"--data-dir={DATA}", f"--steady-skip-s={SKIP_S}"]
    assert main([*arguments, f"--export-dir={tmp_path / 'made'}"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    expected = Driver(Site().offline()).step(100)
    from g2g_agent.openg2g import AgentDatacenter

    with AgentDatacenter.from_config(printed, binary=binary, control_dt_s=Fraction(1)) as datacenter:
        all_same(Driver(datacenter).step(100), expected)
    done = subprocess.run([binary, "check", "--config", printed], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    assert main(arguments) == 2
    assert "name export_dir" in capsys.readouterr().err
    assert main([f"{path}:plain", "--json", f"--export-dir={tmp_path / 'plain'}"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["replay"]["data_dir"] == str(tmp_path / "plain" / "data")
    assert config["training"] == []
    assert main(["g2g_site:config"]) == 0
    assert capsys.readouterr().out == "seed: 3\n"
    for wrong in (f"{path}:number", f"{path}:none", "nothing", "no_such_module:x"):
        assert main([wrong]) == 2
        assert capsys.readouterr().err.startswith("python -m g2g_agent.config: ")


def test_printing_by_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "g2g_agent.config", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "FILE.py:NAME" in done.stdout


def test_a_config_of_openg2gs_objects(tmp_path: Path) -> None:
    pytest.importorskip("openg2g")
    from openg2g.datacenter.config import PowerAugmentationConfig

    from sites import DATA, LARGE, SMALL, Site

    site = Site()
    config = Config.from_openg2g(
        site.facility,
        site.workload(),
        PowerAugmentationConfig(noise_fraction=0.5),
        dt_s=Fraction(1, 10),
        total_gpu_capacity=160,
        name="here",
        seed=5,
        data_dir=DATA,
        steady_skip_s=5.0,
        export_dir=tmp_path,
    )
    assert config["seed"] == 5
    assert config["dt_s"] == 0.1
    assert config["datacenter"] == {
        "name": "here",
        "gpus_per_server": 8,
        "base_kw_per_phase": 20.0,
        "power_factor": 0.95,
        "total_gpu_capacity": 160,
    }
    assert config.at("augmentation.noise_fraction") == 0.5
    assert [m["model_label"] for m in config["models"]] == [SMALL.model_label, LARGE.model_label]
    assert config.at("models[0].replicas") == {"initial": 40, "ramps": [{"target": 16, "t_start": 4.0, "t_end": 8.0}]}
    assert config.at("models[1].initial_batch_size") == 32
    assert config["replay"] == {
        "data_dir": str(DATA),
        "steady_skip_s": 5.0,
        "duration_s": 20,
        "template_duration_s": 20,
        "itl": True,
    }
    assert [(t["n_gpus"], t["t_start"]) for t in config["training"]] == [(8, 2.0), (16, 5.0)]
    assert len({t["trace"] for t in config["training"]}) == 1
    assert Path(config.at("training[0].trace")).parent == tmp_path
