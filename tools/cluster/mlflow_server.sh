#!/usr/bin/env bash
# MLflow's server on the head of a cluster, started again whenever it ends.
#   mlflow_server.sh start STORE ARTIFACTS     does nothing when it runs already
#   mlflow_server.sh stop
# STORE: sqlite:////shared/mlflow/mlflow.db or postgresql://...; ARTIFACTS: a folder or s3://...
set -euo pipefail

pid_file=~/.gmt-mlflow.pid
running() { [ -e "$pid_file" ] && kill -0 -- "-$(cat "$pid_file")" 2>/dev/null; }

if [ "$1" = stop ]; then
    if running; then kill -- "-$(cat "$pid_file")"; fi
    rm -f "$pid_file"
    exit 0
fi
if running; then exit 0; fi

store=$2 artifacts=$3
case $store in sqlite:////*) mkdir -p "$(dirname "/${store#sqlite:////}")" ;; esac
# Only on the cluster's own network, and only for those who ask for it by a name listed here:
# the nodes use the address, a laptop's SSH tunnel says localhost.
address=$(hostname -I | cut -d ' ' -f 1)
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
setsid bash -c 'while true; do "$@"; sleep 5; done' _ \
    ~/env/bin/mlflow server --host "$address" --port 5000 --workers 1 \
    --allowed-hosts "$address:5000,localhost:*,127.0.0.1:*" \
    --backend-store-uri "$store" --artifacts-destination "$artifacts" \
    < /dev/null > ~/mlflow-server.log 2>&1 &
echo $! > "$pid_file"
