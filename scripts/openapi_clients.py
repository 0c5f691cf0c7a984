"""Makes clients of the API's description with two generators, and uses them.

openapi-python-client makes classes and a function for each operation;
datamodel-code-generator makes pydantic classes alone. Each must take the whole
description without a word, make one class of each schema and no other, and its
classes must do for real answers: of the demo, of a replay in lockstep, and of a
later agent, whose answers have members that the description does not know.

Run by openapi_clients.sh, which installs what is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

DESCRIPTION = Path("api/openapi.yaml")
REPLAY = "configs/replay.yaml"
ADDED = {"of": ["a later version", 1.5, None]}


def check(condition: object, message: str) -> None:
    """Ends the program with the message unless the condition holds."""
    if not condition:
        sys.exit(f"openapi_clients: {message}")


def run(*command: str) -> None:
    """Runs a generator, which must end well and warn of nothing."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    said = done.stdout + done.stderr
    silent = re.sub(r"(?m)^Generating .*$", "", said).strip() == ""
    check(done.returncode == 0 and silent, f"{' '.join(command)} ended with {done.returncode}:\n{said}")


class Description:
    """The description, read."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = yaml.safe_load(DESCRIPTION.read_text())["components"]["schemas"]

    def names(self, *, with_lists: bool) -> set[str]:
        """The schemas that a generator makes a class of."""
        return {name for name, schema in self.schemas.items() if with_lists or schema["type"] != "array"}

    def grown(self, schema: dict[str, Any], value: Any) -> Any:
        """The value as a later agent may send it: with a member more in each object."""
        if value is None:
            return None
        if "anyOf" in schema:
            schema = schema["anyOf"][0]
        if "$ref" in schema:
            return self.grown(self.schemas[schema["$ref"].rsplit("/", 1)[1]], value)
        if isinstance(value, list):
            return [self.grown(schema["items"], item) for item in value]
        if "properties" in schema:
            known = {name: self.grown(schema["properties"][name], v) for name, v in value.items()}
            return known | {"added": ADDED}
        if isinstance(value, dict) and isinstance(schema.get("additionalProperties"), dict):
            return {name: self.grown(schema["additionalProperties"], v) for name, v in value.items()}
        return value


@contextlib.contextmanager
def agent(binary: str, *arguments: str) -> Iterator[str]:
    """An agent on a free port; gives its URL, and wants an orderly end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("G2G_AGENT_")}
    environ |= {"G2G_AGENT_API__LISTEN": "127.0.0.1:0", "G2G_AGENT_REPLAY__COMMANDS": "[]"}
    process = subprocess.Popen(
        [binary, *arguments], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "live page and control API" in line:
                url = json.loads(line)["url"].rstrip("/")
                break
        else:
            sys.exit(f"openapi_clients: {' '.join(arguments)} did not start")
        rest = threading.Thread(target=process.stderr.read)  # so that it never waits for a reader
        rest.start()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=30)
    rest.join()
    check(status == 0, f"{' '.join(arguments)} ended with status {status}")


class Operations:
    """What openapi-python-client made: each operation is a function of its own."""

    def __init__(self, work: Path, names: set[str]) -> None:
        settings = work / "openapi-python-client.yaml"
        settings.write_text(
            "content_type_overrides: {application/yaml: text/plain, application/x-ndjson: text/plain, "
            "application/zstd: application/octet-stream}\n"
        )
        run(
            "openapi-python-client", "generate", "--path", str(DESCRIPTION), "--config", str(settings),
            "--output-path", str(work / "operations"), "--meta", "none", "--fail-on-warning",
        )  # fmt: skip
        self.models = importlib.import_module("operations.models")
        made = set(self.models.__all__)
        check(made == names, f"openapi-python-client: too many classes {made - names}, too few {names - made}")
        self.make_client = importlib.import_module("operations.client").Client

    def client(self, url: str, transport: httpx.BaseTransport | None = None) -> Callable[..., Any]:
        """A function that calls an operation by tag and name and returns its answer as an object."""
        client = self.make_client(
            base_url=url, raise_on_unexpected_status=True, timeout=30, httpx_args={"transport": transport}
        )

        def call(tag: str, name: str, **arguments: Any) -> Any:
            return importlib.import_module(f"operations.api.{tag}.{name}").sync(client=client, **arguments)

        return call


def wait_ready(call: Callable[..., Any], models: Any) -> None:
    """Waits until the states can be relied on."""
    end = time.monotonic() + 120
    while (health := call("operate", "get_readiness")).status != models.HealthStatus.OK:
        check(time.monotonic() < end, f"the agent does not become ready: {health.reasons}")
        time.sleep(0.2)


def use_operations(operations: Operations, url: str, *, live: bool) -> None:
    """Reads and commands an agent through openapi-python-client's functions."""
    call, models = operations.client(url), operations.models
    if not live:
        states = call("command", "advance", body=models.StepsCommand(steps=3))
        check([s.seq for s in states] == [0, 1, 2] and isinstance(states[0], models.State), f"the steps gave {states}")
    wait_ready(call, models)
    info = call("read", "get_info")
    check(isinstance(info, models.Info), f"no Info: {info}")
    check(info.source == (models.Source.LIVE if live else models.Source.REPLAY), f"the source is {info.source}")
    state = call("read", "get_state")
    check(isinstance(state, models.State), f"no State: {state}")
    labels = list(state.power_by_model_w.additional_properties)
    check(state.power_w.a > 0 and len(labels) == 3, f"the state is {state}")
    check(bool(state.measured_power_w) == live, f"measured_power_w is {state.measured_power_w}")
    listed = call("read", "list_models")
    check([m.model_label for m in listed] == labels, f"the models are {listed}, those of the state {labels}")
    history = call("read", "list_states", n=2)
    check(history[-1].seq >= history[0].seq, f"the history is {history}")

    small = listed[0]
    size = small.feasible_batch_sizes[0]

    def command(label: str, batch_size: int) -> Any:
        sizes = models.BatchSizesToSet()
        sizes[label] = batch_size
        body = models.BatchSizesCommand(batch_size_by_model=sizes, lease_s=60)
        return call("command", "set_batch_sizes", body=body, idempotency_key=f"{label}-{batch_size}")

    answer = command(small.model_label, size)
    check(isinstance(answer, models.BatchSizes) and answer.batch_size_by_model[small.model_label] == size, f"{answer}")
    check(answer.results[0].outcome == models.Outcome.ACCEPTED, f"the command became {answer.results}")
    check(
        list(answer.batch_size_by_model.additional_properties) == labels, "the answer has the models in another order"
    )
    infeasible = command(small.model_label, size + 1)
    check(isinstance(infeasible, models.Problem), f"an infeasible batch size gives {infeasible}")
    check(infeasible.code == "infeasible-batch-size" == infeasible.errors[0].code, f"the problem is {infeasible}")
    check(command("Mixtral", 8).code == "unknown-model", "an unknown model is no problem of its own")
    events = call("read", "list_events", n=1000)
    updated = [e for e in events if e.topic == "datacenter.batch_size.updated"]
    check(updated and updated[-1].data.batch_size_by_model[small.model_label] == size, f"the events are {events}")
    for name in ("get_recording", "list_recorded_states", "list_recorded_lines", "get_recorded_segment"):
        none = call("read", name)
        check(getattr(none, "code", None) == "no-recording", f"{name} gives {none} where nothing is recorded")


# The paths that are read, with their schemas and openapi-python-client's functions.
READ = {
    "/v1/state": ("State", "get_state"),
    "/v1/history?n=2": ("States", "list_states"),
    "/v1/models": ("Models", "list_models"),
    "/v1/info": ("Info", "get_info"),
    "/v1/events": ("Events", "list_events"),
}


def use_grown(operations: Operations, description: Description, url: str) -> None:
    """Reads what a later agent may answer through openapi-python-client's functions."""
    for path, (schema, function) in READ.items():
        real = httpx.get(url + path).json()
        grown = description.grown(description.schemas[schema], real)
        check(grown != real, f"nothing was added to {path}: {real}")
        answers = httpx.MockTransport(lambda _, grown=grown: httpx.Response(200, json=grown))
        got = operations.client(url, answers)("read", function)
        first = got[0] if isinstance(got, list) else got
        check(
            getattr(first, "additional_properties", {}) == {"added": ADDED}, f"{path}: what was added is lost: {first}"
        )


def use_classes(classes: Any, description: Description, url: str, *, live: bool) -> None:
    """Reads and commands an agent with datamodel-code-generator's classes."""
    for path, (name, _) in READ.items():
        real = httpx.get(url + path).json()
        for answer in real, description.grown(description.schemas[name], real):
            getattr(classes, name).model_validate(answer)
    state = classes.State.model_validate_json(httpx.get(f"{url}/v1/state").text)
    check(state.power_w.a > 0 and len(state.power_by_model_w.root) == 3, f"the state is {state}")
    check((state.measured_power_w is not None) == live, f"measured_power_w is {state.measured_power_w}")
    small = classes.Models.model_validate_json(httpx.get(f"{url}/v1/models").text).root[0]

    def command(**body: Any) -> httpx.Response:
        text = classes.BatchSizesCommand(**body).model_dump_json(exclude_none=True)
        return httpx.post(f"{url}/v1/batch-sizes", content=text, headers={"Content-Type": "application/json"})

    size = small.feasible_batch_sizes[-1]
    answer = classes.BatchSizes.model_validate_json(command(batch_size_by_model={small.model_label: size}).text)
    check(answer.batch_size_by_model.root[small.model_label] == size, f"the answer is {answer}")
    refused = command(batch_size_by_model={small.model_label: size + 1}, lease_s=5)
    for text in refused.json(), description.grown(description.schemas["Problem"], refused.json()):
        problem = classes.Problem.model_validate(text)
        check(problem.code == "infeasible-batch-size" == problem.errors[0].code, f"the problem is {problem}")
    with contextlib.suppress(ValueError):  # pydantic's
        classes.BatchSizesCommand(batch_size_by_model={"a": 8}, lease=5)
        sys.exit("openapi_clients: a command takes a member that there is none of")


def make_classes(work: Path, names: set[str]) -> Any:
    """Has datamodel-code-generator make its classes."""
    run(
        sys.executable, "-W", "error", "-m", "datamodel_code_generator", "--input", str(DESCRIPTION),
        "--input-file-type", "openapi", "--output", str(work / "classes.py"), "--formatters", "builtin",
        "--output-model-type", "pydantic_v2.BaseModel", "--target-python-version", "3.11", "--use-annotated",
    )  # fmt: skip
    made = set(re.findall(r"(?m)^class (\w+)\(", (work / "classes.py").read_text()))
    check(made == names, f"datamodel-code-generator: too many classes {made - names}, too few {names - made}")
    return importlib.import_module("classes")


def main() -> None:
    """Makes both clients and uses them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="an empty directory")
    parser.add_argument("--agent", required=True, help="the program")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.work))

    description = Description()
    operations = Operations(arguments.work, description.names(with_lists=False))
    classes = make_classes(arguments.work, description.names(with_lists=True))
    for live, command in (False, ["replay", "--config", REPLAY, "--pace", "step"]), (True, ["demo"]):
        with agent(arguments.agent, *command) as url:
            use_operations(operations, url, live=live)
            use_grown(operations, description, url)
            use_classes(classes, description, url, live=live)
        print(f"openapi_clients: both clients work with g2g-agent {command[0]}")


if __name__ == "__main__":
    main()
