"""What people look at: pages of runs and suites, their charts and tables, and model cards."""
