"""What a study came to: its report, and its best run to take away."""
