"""What trials report, on its way to MLflow: nothing lost, nothing doubled."""
