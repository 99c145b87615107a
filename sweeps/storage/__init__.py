"""An object store as a sweep's storage: its address, its files, and their copies on machines."""
