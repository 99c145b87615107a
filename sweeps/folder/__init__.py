"""The folder of a sweep: where things lie, who drives it, and which sweep it is."""
