"""What can be known before a sweep starts: its size, its needs, its mistakes."""
