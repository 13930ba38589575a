"""The operator of M3: turns a TrainingJob into a RayJob and tells the truth about it. See operator/README.md."""
