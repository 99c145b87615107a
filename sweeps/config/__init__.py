"""The sweep's YAML: its schema, loading and validation, and what identifies a study."""
