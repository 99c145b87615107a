"""Reports: statistics, figures and pages from plain data."""
