"""What a sweep can be told beyond one run, and what follows from that alone."""
