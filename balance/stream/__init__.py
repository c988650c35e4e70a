"""The balanced stream of shards: which, in what order, kept or dropped before decoding, resumable anywhere."""
