"""Files: paths, the run lock, atomic writes, backups, the object store."""
