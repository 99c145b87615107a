"""Plain data in; statistics, figures and pages out."""
