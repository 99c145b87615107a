"""Tracking: the path from trials to MLflow, with an event log, a tracker and a pump."""
