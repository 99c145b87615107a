"""One fine-tuning run: its config, data, model, training loop, checkpoints and scores."""
