"""Models on disk: sources, tokenizers, prompts, engines that run them."""
