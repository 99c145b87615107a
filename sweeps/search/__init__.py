"""One Optuna study: which trial comes next, what became of it, and its records."""
