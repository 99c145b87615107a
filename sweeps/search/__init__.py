"""Which trial comes next: Optuna, fixed designs, attempts, early stopping, records."""
