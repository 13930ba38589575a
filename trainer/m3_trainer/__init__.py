"""What runs inside a job and on a laptop: read, split, fit, evaluate, log, register."""

__version__ = "0.1.0"
