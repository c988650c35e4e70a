"""What trains a model: schedule, optimiser, processes, precision, checkpoints, and what a run writes down."""
