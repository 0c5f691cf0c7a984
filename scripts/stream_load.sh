#!/usr/bin/env bash
# How a live run keeps its times, and what its followers get, with many WebSocket
# clients of which half never read: the demo without clients, then with them, each
# for DURATION_S seconds. Agent, simulated hosts and clients share this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
clients=${CLIENTS:-500}
duration_s=${DURATION_S:-60}

work=$(mktemp -d)
agent=
end() {
	if [ -n "$agent" ]; then
		kill "$agent" 2>/dev/null || true
		wait "$agent" || true
		agent=
	fi
}
trap 'end; rm -rf "$work"' EXIT
go build -o "$work/" ./cmd/g2g-agent ./scripts/streamload

start() {
	G2G_AGENT_API__LISTEN=127.0.0.1:0 G2G_AGENT_LOG__FORMAT=json "$work/g2g-agent" demo >/dev/null 2>"$work/log" &
	agent=$!
	for _ in $(seq 120); do
		url=$(sed -n 's/.*"url":"\([^"]*\)".*/\1/p' "$work/log")
		if [ -n "$url" ] && curl -sf "${url}readyz" >/dev/null; then
			return
		fi
		sleep 0.5
	done
	echo "the demo is not ready after a minute:" >&2
	cat "$work/log" >&2
	exit 1
}
report() {
	curl -sf "${url}metrics" | grep -E '^(g2g_(steps|late_steps|dropped_steps)_total|process_resident_memory_bytes|g2g_step_lateness_seconds_bucket\{le="0.00(1|25|5)"\}) '
}

echo "== no clients, $duration_s s"
start
sleep "$duration_s"
report
end
echo "== $clients clients, half of them never read, $duration_s s"
start
status=0
"$work/streamload" -url "$url" -clients "$clients" -stalled $((clients / 2)) -duration-s "$duration_s" || status=$?
report
exit "$status"
