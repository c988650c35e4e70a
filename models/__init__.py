"""Models: open_clip towers, losses, optimisers, checkpoints."""
