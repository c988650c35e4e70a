"""A plan's choice of samples as files for other trainers: lists of ids or keys, weights, new shards."""
