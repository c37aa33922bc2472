"""What the stages, the trainer and the evaluator share: errors, configuration, store, prompts, sandbox, backends, CLI."""
