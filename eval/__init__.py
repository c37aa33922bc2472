"""The evaluator: a student's SQL in, execution accuracy out."""
