"""What many models tell together: regressions over a zoo, and its page."""
