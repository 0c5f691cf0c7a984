"""The agent's configuration as a Python value.

A [`Config`][g2g_agent.config.Config] holds what the agent's YAML file holds, under the same keys
(docs/configuration.md). The agent reads JSON as YAML, so no YAML library is needed to give one to it.

Printed from the command line, for a site that is described by OpenG2G's own objects:

    python -m g2g_agent.config site.py:datacenter --data-dir data/specs > site.yaml
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openg2g.datacenter.config import DatacenterConfig, PowerAugmentationConfig
    from openg2g.datacenter.offline import OfflineWorkload

    from g2g_agent._site import AgentWorkload

__all__ = ["Config"]

# The keys that are paths, which hold relative to the file that they stand in. "*" is each element of a list.
_PATHS = (
    ("training", "*", "trace"),
    ("replay", "data_dir"),
    ("live", "requests_dir"),
    ("api", "token_file"),
    ("api", "read_token_file"),
    ("api", "tls_cert_file"),
    ("api", "tls_key_file"),
    ("models", "*", "live", "api_key_file"),
    ("models", "*", "live", "servers", "*", "api_key_file"),
    ("models", "*", "live", "gpu_endpoints", "*", "token_file"),
    ("models", "*", "live", "gpu_endpoints", "*", "socket"),
    ("models", "*", "live", "gpu_endpoints", "*", "file"),
    ("models", "*", "live", "servers", "*", "gpu_endpoints", "*", "token_file"),
    ("models", "*", "live", "servers", "*", "gpu_endpoints", "*", "socket"),
    ("models", "*", "live", "servers", "*", "gpu_endpoints", "*", "file"),
)


class Config(Mapping[str, Any]):
    """A configuration of the agent: a mapping with the keys of its YAML file, which does not change.

    Args:
        values: The configuration's keys. Anything that JSON can hold; paths and fractions are written as texts.

    Raises:
        TypeError: A key is not a text, or a value is of a kind that a configuration cannot hold.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values: dict[str, Any] = _plain({} if values is None else values, "")

    def __getitem__(self, key: str) -> Any:
        return _copy(self._values[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Config({self._values!r})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Config):
            return self._values == other._values
        if isinstance(other, Mapping):
            return bool(self._values == dict(other))
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())

    def at(self, path: str, default: Any = None) -> Any:
        """The value at a key path such as `"replay.duration_s"` or `"models[0].model_label"`, else the default."""
        value: Any = self._values
        for part in _parts(path):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return default
        return _copy(value)

    def replace(self, changes: Mapping[str, Any]) -> Config:
        """A configuration with other values at some key paths.

        Args:
            changes: Values by key path, such as `{"seed": 7, "replay.duration_s": 120}`. None takes a key away.

        Raises:
            KeyError: A path leads through what is no mapping or no element of a list.
        """
        values = _copy(self._values)
        for path, value in changes.items():
            *way, last = _parts(path)
            place: Any = values
            for part in way:
                if isinstance(part, str) and isinstance(place, dict) and place.get(part) is None:
                    place[part] = {}
                place = _step(place, part, path)
            if isinstance(last, str) and isinstance(place, dict):
                if value is None:
                    place.pop(last, None)
                else:
                    place[last] = value
            else:
                _step(place, last, path)
                place[last] = value
        return Config(values)

    def resolved(self, directory: str | Path) -> Config:
        """The configuration with its relative paths made absolute, as seen from a directory."""
        values = _copy(self._values)
        for path in _PATHS:
            _resolve(values, path, Path(directory).absolute())
        return Config(values)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain dicts, lists, texts and numbers."""
        copied: dict[str, Any] = _copy(self._values)
        return copied

    def to_json(self) -> str:
        """The configuration as one line of JSON, which the agent reads as it reads YAML."""
        return json.dumps(self._values, ensure_ascii=False, allow_nan=False)

    def to_yaml(self) -> str:
        """The configuration as YAML, for people to read and change."""
        return "".join(_yaml(self._values, 0))

    def save(self, path: str | Path) -> None:
        """Write the configuration to a file: JSON if its name ends with `.json`, else YAML.

        Relative paths in it are then relative to that file.
        """
        path = Path(path)
        path.write_text(self.to_json() + "\n" if path.suffix == ".json" else self.to_yaml(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, *, binary: str | Path | None = None) -> Config:
        """Read a configuration file. Its relative paths become absolute.

        JSON is read here. YAML is read by PyYAML where that is installed, else by the agent, which then also fills in
        its defaults.

        Args:
            path: The file.
            binary: The agent's program, where it is not to be looked for.

        Raises:
            ValueError: The file is no configuration.
            OSError: The file cannot be read.
        """
        path = Path(path).absolute()
        text = path.read_text(encoding="utf-8-sig")
        try:
            values = json.loads(text)
        except ValueError:
            values = _read_yaml(text, path, binary)
        if not isinstance(values, dict):
            raise ValueError(f"{path}: a configuration is a mapping, not {type(values).__name__}")
        return cls(values).resolved(path.parent)

    @classmethod
    def from_openg2g(
        cls,
        datacenter: DatacenterConfig,
        workload: OfflineWorkload | AgentWorkload,
        power_augmentation: PowerAugmentationConfig | None = None,
        *,
        dt_s: Fraction,
        total_gpu_capacity: int,
        name: str = "dc",
        seed: int = 0,
        data_dir: str | Path | None = None,
        duration_s: float | Fraction | None = None,
        steady_skip_s: float = 0.0,
        export_dir: str | Path | None = None,
    ) -> Config:
        """A site's configuration, made of OpenG2G's own objects.

        A replay of it gives the numbers that `OfflineDatacenter` gives for the same arguments, to the last bit.

        Args:
            datacenter: OpenG2G's facility.
            workload: OpenG2G's workload, or one that only names its data.
            power_augmentation: OpenG2G's power augmentation.
            dt_s: The time step in seconds.
            total_gpu_capacity: GPUs that the site can host.
            name: The site's name.
            seed: Of layout, noise and latencies.
            data_dir: The directory that the workload's data were loaded from. Without it the workload's templates and
                fits are written into `export_dir`, and give the same numbers.
            duration_s: The `duration_s` that the data were loaded with, in seconds. Found out from the templates where
                it is not given.
            steady_skip_s: The `steady_skip_s` that the data were loaded with, in seconds. Needed with `data_dir` only.
            export_dir: A directory for what exists in memory alone: the templates (without `data_dir`) and the training
                traces.

        Raises:
            ValueError: `data_dir` or `export_dir` is needed and missing, or they and the workload do not agree.
        """
        from g2g_agent._site import site_config

        return site_config(
            datacenter,
            workload,
            power_augmentation,
            dt_s=dt_s,
            total_gpu_capacity=total_gpu_capacity,
            name=name,
            seed=seed,
            data_dir=data_dir,
            duration_s=duration_s,
            steady_skip_s=steady_skip_s,
            export_dir=export_dir,
        )


def number(value: float | int | Fraction) -> int | float | str:
    """A number as the agent reads it exactly: a whole number or a float if that is exact, else a fraction as text."""
    if isinstance(value, Fraction):
        if value.denominator == 1:
            return int(value)
        if Fraction(repr(float(value))) == value:  # the agent takes the digits as they stand: 0.1 is one tenth
            return float(value)
        return f"{value.numerator}/{value.denominator}"
    return value


def _plain(value: Any, where: str) -> Any:
    """A copy of a value, made of what JSON can hold."""
    if isinstance(value, Mapping):
        out = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where or 'config'}: the key {key!r} is no text")
            out[key] = _plain(item, f"{where}.{key}" if where else key)
        return out
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Fraction):
        return number(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}: {value} is no number that a configuration can hold")
        return float(value)
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (bytes, bytearray)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    item = getattr(value, "item", None)
    if item is not None:  # a number of NumPy's
        return _plain(item(), where)
    raise TypeError(f"{where}: a configuration cannot hold a {type(value).__name__}")


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def _parts(path: str) -> list[str | int]:
    """The parts of a key path: names, and numbers of elements of lists."""
    parts: list[str | int] = []
    for piece in path.split("."):
        name, *numbers = piece.split("[")
        if name:
            parts.append(name)
        for text in numbers:
            if not text.endswith("]") or not text[:-1].isdigit():
                raise KeyError(f"{path}: write elements of lists as models[0]")
            parts.append(int(text[:-1]))
    if not parts:
        raise KeyError("the key path is empty")
    return parts


def _step(place: Any, part: str | int, path: str) -> Any:
    try:
        return place[part]
    except (KeyError, IndexError, TypeError):
        raise KeyError(f"{path}: there is no {part!r}") from None


def _resolve(place: Any, path: Sequence[str], directory: Path) -> None:
    head, *rest = path
    if head == "*":
        for item in place if isinstance(place, list) else ():
            _resolve(item, rest, directory)
    elif isinstance(place, dict) and place.get(head):
        if rest:
            _resolve(place[head], rest, directory)
        elif isinstance(place[head], str):
            place[head] = str(directory / place[head])


def _yaml(value: Any, indent: int) -> Iterator[str]:
    """Block YAML. What has no nested mapping is put on one line."""
    pad = "  " * indent
    for key, item in value.items():
        name = key if key.replace("_", "").isalnum() and key.isascii() and not key[0].isdigit() else json.dumps(key)
        if isinstance(item, dict) and item and not _flat(item):
            yield f"{pad}{name}:\n"
            yield from _yaml(item, indent + 1)
        elif isinstance(item, list) and any(isinstance(one, dict) for one in item):
            yield f"{pad}{name}:\n"
            for one in item:
                if not isinstance(one, dict) or _flat(one):
                    yield f"{pad}  - {_flow(one)}\n"
                    continue
                first, *more = "".join(_yaml(one, indent + 2)).splitlines(keepends=True)
                yield f"{pad}  - {first.lstrip(' ')}"
                yield from more
        else:
            yield f"{pad}{name}: {_flow(item)}\n"


def _flat(item: Any) -> bool:
    """Whether a mapping is short enough for one line."""
    return len(_flow(item)) <= 88


def _flow(item: Any) -> str:
    if isinstance(item, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {_flow(v)}" for k, v in item.items()) + "}"
    if isinstance(item, list):
        return "[" + ", ".join(_flow(one) for one in item) + "]"
    return json.dumps(item, ensure_ascii=False)


def _read_yaml(text: str, path: Path, binary: str | Path | None) -> Any:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        return _ask_agent(path, binary)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ValueError(f"{path}: {err}") from None


def _ask_agent(path: Path, binary: str | Path | None) -> Any:
    """The configuration as the agent itself understands the file."""
    from g2g_agent.binary import find_binary

    program = str(binary or find_binary())
    done = subprocess.run(
        [program, "check", "--json", "--config", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise ValueError(f"{path}: {done.stderr.strip() or done.stdout.strip()}") from None
    if not answer.get("ok"):
        problems = "; ".join(f"{e.get('path', '')}: {e.get('message', '')}" for e in answer.get("errors", []))
        raise ValueError(f"{path}: {problems}")
    return answer["config"]


def _load_object(spec: str) -> Any:
    """What `FILE.py:NAME` or `MODULE:NAME` names; a function is called."""
    source, _, name = spec.rpartition(":")
    if not source:
        raise ValueError(f"{spec}: name what to print as FILE.py:NAME or MODULE:NAME")
    if source.endswith(".py"):
        found = importlib.util.spec_from_file_location(Path(source).stem, source)
        if found is None or found.loader is None:
            raise ValueError(f"{source}: this is no Python file")
        module = importlib.util.module_from_spec(found)
        sys.path.insert(0, str(Path(source).absolute().parent))
        found.loader.exec_module(module)
    else:
        sys.path.insert(0, os.getcwd())
        module = importlib.import_module(source)
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value() if callable(value) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Print a site's configuration. See `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m g2g_agent.config",
        description="Prints the agent's configuration of a site that is described by OpenG2G's objects.",
    )
    parser.add_argument(
        "object",
        metavar="FILE.py:NAME",
        help="an OfflineDatacenter, an AgentDatacenter, a Config, or a function without arguments that returns one",
    )
    parser.add_argument("--data-dir", type=Path, help="the directory that the inference data were loaded from")
    parser.add_argument("--steady-skip-s", type=float, default=0.0, help="as the data were loaded with (default: 0)")
    parser.add_argument("--duration-s", type=float, help="as the data were loaded with (default: as they are)")
    parser.add_argument("--export-dir", type=Path, help="for what is in memory alone: training traces")
    parser.add_argument("--json", action="store_true", help="one line of JSON in place of YAML")
    args = parser.parse_args(argv)
    try:
        value = _load_object(args.object)
        if not isinstance(value, Config):
            from g2g_agent._site import config_of

            value = config_of(
                value,
                data_dir=args.data_dir,
                duration_s=args.duration_s,
                steady_skip_s=args.steady_skip_s,
                export_dir=args.export_dir,
            )
    except (ValueError, TypeError, ImportError, AttributeError, OSError) as err:
        print(f"{parser.prog}: {err}", file=sys.stderr)
        return 2
    sys.stdout.write(value.to_json() + "\n" if args.json else value.to_yaml())
    return 0


if __name__ == "__main__":
    sys.exit(main())
