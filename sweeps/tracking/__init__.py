"""What trials report on its way to MLflow: the event log, the tracker, the pump."""
