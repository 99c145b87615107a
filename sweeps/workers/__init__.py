"""Ray: the cluster, the groups of workers, and the trials that run in them."""
