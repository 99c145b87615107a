"""Storage: paths, the run lock, atomic writes, database backups, the object store."""
