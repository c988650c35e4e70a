"""What balance, models, eval and the programs all use."""
