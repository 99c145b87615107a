"""The life of a sweep: studies, Ray Tune and Train, worker groups, test scoring."""
