"""Spider's exact set match and hardness."""
