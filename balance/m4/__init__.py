"""Multi-modal moment matching: the problem, its exact solution with a certificate, and the plan that comes of it."""
