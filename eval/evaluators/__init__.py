"""The kinds of evaluator, and what they alone use: one protocol a file, or a few files of one prefix."""
