# The one gate is `make check`; CI runs exactly that. Needed: Go, gcc (for the
# race detector), make, git. The tools come from tools/go.mod, built by Go.

TOOL    := go tool -modfile=tools/go.mod
VERSION ?= $(shell packaging/version.sh)
# How long each fuzz target runs, and how often each benchmark. A number of runs
# (x) ends cleanly; after a time (s), go test may report the deadline as a failure.
FUZZTIME ?= 20000x
COUNT    ?= 6
# Files that say of themselves that they are generated.
GENERATED = $(shell git grep -lE '^(//|\#|<!--) Code generated .* DO NOT EDIT')

.NOTPARALLEL:
.PHONY: check build test bench compare compare-closedloop compare-generation compare-load step-timing stream-load lockstep-speed command-latency interop kills soak siege fmt fmt-check lint vet test-race test-shuffled generated tidy cross no-fma fuzz bench-once soak-short truth openapi-clients recording-tools package wheel release release-check vuln python python-speed examples

# The gate: everything that must hold before a commit.
check: fmt-check lint vet test-race truth generated tidy cross no-fma fuzz bench-once soak-short openapi-clients recording-tools package wheel vuln python examples
	@echo "== check: all passed"

# The program, as it is released.
build:
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o bin/g2g-agent ./cmd/g2g-agent

# The tests, as the README says.
test:
	go test -race ./...

# Benchmarks, in the form benchstat compares: `make bench > new.txt`, then
# `go tool -modfile=tools/go.mod benchstat old.txt new.txt`.
bench:
	@go test -run='^$$' -bench=. -benchmem -count=$(COUNT) ./...

# Speed side by side with OpenG2G; ARGS=--write puts the table into docs/performance.md.
compare:
	scripts/compare_openg2g.sh speed $(ARGS)

# OpenG2G's closed loop with its own datacenter and with the agent; takes two idle cores and 8 minutes.
compare-closedloop:
	scripts/compare_closedloop.sh $(ARGS)

# The load generators side by side, likewise; takes two idle cores and 8 minutes.
compare-load:
	scripts/compare_loadgen.sh $(ARGS)

# Inference data made by both programs: files, replays and time. ARGS="speed" times.
compare-generation:
	scripts/compare_generation.sh $(or $(ARGS),exactness)

# How many steps of a large live run start late, likewise; takes two idle cores and 6 minutes.
step-timing:
	go run ./scripts/steptiming $(ARGS)

# Many WebSocket clients, half of them stalled, on a live run; two idle cores and 3 minutes.
stream-load:
	scripts/stream_load.sh

# How fast a controller can drive a replay in lockstep over HTTP.
lockstep-speed:
	go run ./scripts/lockstepspeed $(ARGS)

# How much processor time a step costs the Python client and the agent.
python-speed: build
	PYTHONPATH=clients/python/src python3 clients/python/speed.py --binary bin/g2g-agent $(ARGS)

# How long a command over HTTP takes to be carried out and seen; 3 minutes.
command-latency:
	go run ./scripts/commandlatency $(ARGS)

# What is left of outputs when live runs are killed at random moments, 4 minutes; with
# ARGS="-recording -runs 100", of recordings: 10 minutes.
kills:
	go run ./scripts/kills $(ARGS)

# The agent against real zeusd daemons (needs cargo; 6 minutes, longer the first time) and,
# with ARGS=-vllm, real vLLM on the CPU (needs Python 3.12 and 6 GB).
interop:
	go run ./scripts/interop $(ARGS)

# The demo under faults for half an hour: no step missing, no power lost, no growth.
soak:
	go run ./scripts/soak -duration-s 1800 $(ARGS)

# Thousands of connections, wrong tokens and readers of all the history from one
# address at once; two idle cores and 1 minute.
siege:
	go run ./scripts/siege $(ARGS)

# Lay the code out as fmt-check wants it.
fmt:
	$(TOOL) golangci-lint fmt

fmt-check:
	@echo "== format"
	$(TOOL) golangci-lint fmt --diff

# The linters and, through depguard, the dependency direction (.golangci.yml).
lint:
	@echo "== lint"
	$(TOOL) golangci-lint config verify
	$(TOOL) golangci-lint run ./...

vet:
	@echo "== vet"
	go vet ./...

# As the README says, so that what passed just now need not run again.
test-race:
	@echo "== tests, with the race detector"
	go test -race -p 1 ./...

# The same in random order.
test-shuffled:
	go test -race -p 1 -shuffle=on ./...

# Generated files must be what their generators write.
generated:
	@echo "== generated files"
	go generate ./...
	git diff --exit-code -- $(GENERATED)

# go.mod and go.sum must be complete and minimal, and the modules untouched.
tidy:
	@echo "== modules"
	go mod tidy -diff
	cd tools && go mod tidy -diff
	go mod verify

# The systems that users have and CI has not.
cross:
	@echo "== cross-builds"
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 go build ./...
	CGO_ENABLED=0 GOOS=darwin GOARCH=arm64 go build ./...

# Replays must give the same bits on arm64.
no-fma:
	@echo "== no fused multiply-add"
	scripts/check_no_fma.sh

fuzz:
	@echo "== fuzzing, $(FUZZTIME) a target"
	FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

# What cannot be followed with the race detector on: the latency of 2,048 streams, what
# is allocated, a disk that is too slow for a run.
truth:
	@echo "== measured latency against the true one"
	go test -run 'Truth|AllocateNothing' ./loadgen
	go test -run RecordedRunWithAGap ./agent

# Benchmarks must run; how fast they are is not the gate's business.
bench-once:
	@echo "== benchmarks, once"
	go test -run='^$$' -bench=. -benchtime=1x ./...

soak-short:
	@echo "== the demo under faults, 20 s"
	go run ./scripts/soak -duration-s 20

# Clients that two generators make of the API's description, against the demo and a
# replay. Without Python 3.11 it says so and goes on.
openapi-clients:
	@echo "== clients made of the API's description"
	scripts/openapi_clients.sh

# A recording of the demo and exports of it, read by pandas, DuckDB, polars and zstdcat.
# Without Python 3.11 or zstd it says so and goes on.
recording-tools:
	@echo "== recordings, read by other tools"
	scripts/recording_tools.sh

# The Debian package: built, installed into a scratch root, removed. Without dpkg
# it says so and goes on.
package:
	@echo "== Debian package"
	packaging/check_deb.sh

# The Python package: lint, types and tests, on each Python that is found.
python:
	@echo "== Python package"
	scripts/python_check.sh

# The Python wheel of this machine and the one without the program: built, installed
# into empty environments, run.
wheel:
	@echo "== Python wheels"
	packaging/check_wheel.sh

# All that a user installs, into dist/: archives, Debian packages, wheels, SBOMs, checksums.
release:
	packaging/release.sh

# The same twice in two folders: every byte must be the same. Takes some minutes.
release-check:
	packaging/check_release.sh

vuln:
	@echo "== known vulnerabilities"
	scripts/vulncheck.sh

# OpenG2G's studies driven by the program and the Python package of this tree, and the
# notebooks, in short. ARGS=--full runs them in full.
examples:
	@echo "== OpenG2G's examples"
	scripts/openg2g_examples.sh $(ARGS)
