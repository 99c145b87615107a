"""What the YAML of a sweep can say, checked as a whole: schema, loading, identity."""
