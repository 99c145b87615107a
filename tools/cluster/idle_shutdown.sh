#!/usr/bin/env bash
# Shuts the head down when nobody uses it, so that it stops costing:
#   idle_shutdown.sh SECONDS [PAUSE]     0: never; looks every PAUSE (300) seconds
# In use: a job that is running or pending, or a connection by SSH, as a tunnel or `ray submit` has.
# cluster.yaml starts it in the background; a second one replaces the first.
set -euo pipefail

pid_file=~/.gmt-idle.pid
if [ -e "$pid_file" ]; then kill "$(cat "$pid_file")" 2>/dev/null || true; fi
echo $$ > "$pid_file"

in_use() {
    local jobs connections
    jobs=$(ray job list --address http://127.0.0.1:8265 2>&1 || true)
    connections=$(ss -Htn state established 'sport = :22')
    [ -n "$connections" ] || [[ $jobs =~ \'(RUNNING|PENDING)\' ]]
}

used=$SECONDS
while [ "$1" -gt 0 ]; do
    if in_use; then used=$SECONDS; fi
    if [ $((SECONDS - used)) -ge "$1" ]; then exec sudo shutdown -h now; fi
    sleep "${2:-300}"
done
