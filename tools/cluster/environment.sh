# What every shell and every Ray process of a node needs; `setup_node.sh` puts it into ~/.bashrc.
export RAY_AUTH_MODE=token PATH=$HOME/env/bin:$PATH PYTHONPATH=$HOME/gmt-sweep
# On the head, which alone has this file: a script joins the cluster, and finds its MLflow.
if [ -e ~/ray_bootstrap_config.yaml ]; then
    export RAY_ADDRESS=auto MLFLOW_TRACKING_URI="http://$(hostname -I | cut -d ' ' -f 1):5000"
fi
# The node's own NVMe, where AWS's images mount it: checkpoints before their upload, and the hub.
nvme=/opt/dlami/nvme
if [ -w $nvme ]; then
    export GMT_SWEEP_SCRATCH=$nvme/gmt-sweep HF_HOME=$nvme/huggingface
fi
