"""What a worker imports to run its part of a plan: neither solvers nor torch.export."""
