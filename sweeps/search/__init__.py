"""Which trial runs next: Optuna samplers, fixed designs, attempts, early stopping, records."""
