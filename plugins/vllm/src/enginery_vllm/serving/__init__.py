"""What runs in vLLM's own Python, which need not have Enginery: standard library only, run by path."""
